"""Why records are rejected: the names that errors carry and counts are kept under."""

from typing import Final

REASONS: Final = {
    "corrupt_record": "the record cannot be read",
    "missing_field": "the record lacks a field",
    "bad_conversation": "roles, turns or texts are not those of a dialogue",
    "wrong_tag": "a text has the image tag of another format",
    "image_count": "tags and images differ in number",
    "not_in_released": "tags and images that data.reading=released would show otherwise than written",
    "missing": "an image's file does not exist",
    "unreadable": "an image's file is there, but cannot be read",
    "corrupt": "an image cannot be decoded",
    "unsupported": "an image is of a kind that is not read",
    "oversized": "an image has more pixels than data.max_pixels",
    "no_target": "no supervised token; nothing can be learnt",
    "truncated": "longer than a row (data.row_length)",
    "too_many_images": "more images than a row holds (data.images_per_row)",
    "too_many_targets": "more supervised tokens than data.max_targets",
    "invalid": "anything else; the detail says what",
}
