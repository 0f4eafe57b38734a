"""What the papers define: the gates and the network. Imports torch and nothing of ours."""
