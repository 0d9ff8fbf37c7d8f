"""The Celery application: `celery -A workers worker -Q score -P solo`, and so on for each lane."""

from workers.app import app

__all__ = ["app"]
