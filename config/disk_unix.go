//go:build unix

package config

import "golang.org/x/sys/unix"

// mayWrite returns an error if this process cannot write to a directory.
func mayWrite(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

// sizeOfDisk returns the size in bytes of the filesystem of a directory that exists.
func sizeOfDisk(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Blocks) * int64(stat.Bsize), nil
}
