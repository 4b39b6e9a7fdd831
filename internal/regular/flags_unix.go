//go:build unix

package regular

import "golang.org/x/sys/unix"

// onlyRegular are flags of open: no link in the place of the file, no wait for the writer of a pipe,
// no terminal of the process.
const onlyRegular = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
