"""The guests are not installed, so that pytest must not try them as packages."""

collect_ignore_glob = ["guest_*"]
