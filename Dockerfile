# The command `prosma` on a machine without a display, on its processor or on NVIDIA graphics cards:
#   docker build -t prosma .
#   docker run --rm --gpus all -v "$PWD:/data" prosma train /data/masks --out /data/run --minutes 60
FROM python:3.13-slim

# libgomp serves PyTorch's threads on the processor; its version is that of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/napari-prosma
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt ".[export,dicom]" \
    && useradd --create-home --uid 1000 prosma

USER 1000
WORKDIR /data
ENTRYPOINT ["prosma"]
CMD ["--help"]
