package regular

import (
	"io/fs"
	"os"
)

// Create creates a file for reading and writing, and fails if there is one.
func Create(path string, mode fs.FileMode) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
}

// Rename moves a file, and replaces another one.
func Rename(from, to string) error { return os.Rename(from, to) }
