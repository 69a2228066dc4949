"""Attribution: which parts of the image a score or a channel depends on."""
