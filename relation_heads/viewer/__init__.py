"""One HTML page that shows what detections listened to; it needs no server and no network."""

from relation_heads.viewer.page import write_page

__all__ = ["write_page"]
