"""What runs the project on a server: cloud-init script, systemd units, and the walk through docs/deploy-ec2.md."""
