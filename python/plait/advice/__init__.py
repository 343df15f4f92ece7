"""Advice: what the calls that a program makes most of would take under each concurrency model, from one run of it."""

from plait.advice._advise import Advice as Advice, advise as advise
from plait.advice._calls import measured_calls as measured_calls, predict_calls as predict_calls
