"""``python -m nbodykit_sr.generate``: the command that makes a catalogue (see `commands.generate`)."""

from .__main__ import run

if __name__ == "__main__":
    run("generate")
