"""The chat page's files: of known types, and never a mixture of an old and a new version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parent / "page"

# What the machine's own tables say differs: a script sent as text/plain is not run.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
# Kept by the browser, and asked for again by its ETag each time: scripts of one page belong together.
CACHING = "no-cache"


class PageFiles(StaticFiles):
    """Serves the files of `PAGE` below a path."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE)

    def file_response(self, full_path: Any, *args: Any, **options: Any) -> Response:
        """The file with the page's headers."""
        response = super().file_response(full_path, *args, **options)
        response.headers.update(_headers(Path(full_path)))
        return response


def index() -> FileResponse:
    """The page itself."""
    path = PAGE / "index.html"
    return FileResponse(path, headers=_headers(path))


def _headers(path: Path) -> dict[str, str]:
    return {"Content-Type": TYPES[path.suffix], "Cache-Control": CACHING}
