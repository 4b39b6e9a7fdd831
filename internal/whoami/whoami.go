// Package whoami names the user of this process in messages about missing rights.
package whoami

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// User returns the user whose rights count, such as "user weir (uid 65532)". An image
// without /etc/passwd has no names: "uid 65532".
func User() string {
	uid := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		return fmt.Sprintf("user %s (uid %s)", u.Username, uid)
	}
	return "uid " + uid
}

// Explain adds the user to an error about missing rights. It returns any other error
// as it is.
func Explain(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w for %s", err, User())
}
