"""The former name of `card_summary`."""

from .card_summary import card_rows as card_rows
