"""asyncio, threads and processes side by side, measured on this machine: the table that every text on the subject has."""

from plait.compare._comparison import Comparison as Comparison, Row as Row
from plait.compare._textbook import textbook as textbook
