package whoami_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/whoami"
)

func TestExplain(t *testing.T) {
	uid := fmt.Sprintf("uid %d", os.Geteuid())
	if user := whoami.User(); !strings.Contains(user, uid) {
		t.Errorf("%q", user)
	}
	for _, err := range []error{fs.ErrPermission, syscall.EACCES, syscall.EPERM, &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}} {
		got := whoami.Explain(err)
		if !errors.Is(got, err) || !strings.HasPrefix(got.Error(), err.Error()+" for ") || !strings.Contains(got.Error(), uid) {
			t.Errorf("%v became %v", err, got)
		}
	}
	for _, err := range []error{nil, fs.ErrNotExist, syscall.EROFS} {
		if got := whoami.Explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
