package whoami

import "io/fs"

// ownerOf tells nothing: users of Windows have no number.
func ownerOf(fs.FileInfo) (uid int, ok bool) { return 0, false }
