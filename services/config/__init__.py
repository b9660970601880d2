"""The config service: settings that change a running mesh."""
