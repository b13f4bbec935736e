"""The emulator of density fields (Kodi Ramanah et al. 2020): its mesh, output and training."""
