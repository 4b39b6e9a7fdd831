// Package whoami names the user of this process in messages about missing rights, and
// the owner of the directory.
package whoami

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// User returns the user whose rights count, such as "user weir (uid 65532)". An image
// without /etc/passwd has no names: "uid 65532".
func User() string { return name(os.Geteuid()) }

func name(id int) string {
	uid := strconv.Itoa(id)
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		return fmt.Sprintf("user %s (uid %s)", u.Username, uid)
	}
	return "uid " + uid
}

// Owner returns the owner of a path, such as "/data belongs to user root (uid 0), mode
// drwxr-xr-x". If the path does not exist or cannot be reached, it describes the nearest
// directory above. It returns "" if there is none.
func Owner(path string) string {
	for {
		if info, err := os.Lstat(path); err == nil {
			uid, ok := ownerOf(info)
			if !ok {
				return ""
			}
			return fmt.Sprintf("%s belongs to %s, mode %s", path, name(uid), info.Mode())
		}
		parent := filepath.Dir(path)
		if parent == path {
			return ""
		}
		path = parent
	}
}

// Explain adds the user to an error about missing rights. It returns any other error
// as it is.
func Explain(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w for %s", err, User())
}
