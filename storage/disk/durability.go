package disk

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Durability says when stored content and records survive a power cut.
type Durability uint8

const (
	// Never flushes nothing. After a power cut a blob may have its name and size, and
	// other bytes.
	Never Durability = iota
	// Behind flushes the whole filesystem within seconds after a commit. Content that was
	// not flushed before a power cut is known by its mark, and is hashed before it is served.
	Behind
	// Always flushes each file before its rename, and the directory after it.
	Always
)

// mark is the bit in the mode of a file that has not been flushed yet, as far as is known.
// Files of content lose it after a flush. Records keep it: theirs says that the file
// begins with a checksum.
const mark = fs.ModeSticky

// isMarked reports whether a file bears the mark.
func isMarked(info fs.FileInfo) bool { return info.Mode()&mark != 0 }

// unflushable are filesystems whose bytes syncfs(2) does not bring to a disk: the kernel hands
// them to another program or machine, which is asked to flush a single file only.
var unflushable = map[int64]string{
	unix.FUSE_SUPER_MAGIC: "FUSE",
	unix.V9FS_MAGIC:       "9p",
	unix.CIFS_SUPER_MAGIC: "CIFS",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.SMB_SUPER_MAGIC:  "SMB",
}

// unfit returns why a filesystem cannot be used with [Behind], or "". workspace is a directory
// on it that the process has just made.
func unfit(workspace string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(workspace, &st); err != nil {
		return "", &fs.PathError{Op: "statfs", Path: workspace, Err: err}
	}
	if name, found := unflushable[int64(st.Type)]; found {
		return "a filesystem of type " + name + " cannot be flushed as a whole", nil
	}
	// A filesystem of another system may keep fewer bits of the mode.
	path := filepath.Join(workspace, "mark")
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode|mark)
	if err != nil {
		return "", err
	}
	defer os.Remove(path)
	defer file.Close()
	info, err := file.Stat()
	if err == nil && !isMarked(info) {
		return "the filesystem does not keep the sticky bit of files", nil
	}
	return "", err
}
