"""The light cone: replicas and crossings, world lines between snapshots, shells on the sky."""
