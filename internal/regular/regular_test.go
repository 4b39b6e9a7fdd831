package regular_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/regular"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	listener, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := errors.Join(
		os.WriteFile(at("file"), []byte("1234"), 0o600), os.WriteFile(at("empty"), nil, 0o600), os.WriteFile(at("longer"), []byte("12345"), 0o600),
		os.WriteFile(at("sparse"), nil, 0o600), os.Truncate(at("sparse"), 1<<42),
		os.Symlink("file", at("link")), os.Symlink("loop", at("loop")), os.Symlink("missing", at("dangling")),
		os.Link(at("file"), at("hard link")), os.Mkdir(at("directory"), 0o700), syscall.Mkfifo(at("pipe"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"file": nil, "empty": nil, "hard link": nil,
		"longer": regular.ErrTooLarge, "sparse": regular.ErrTooLarge,
		"link": regular.ErrNotRegular, "loop": regular.ErrNotRegular, "dangling": regular.ErrNotRegular,
		"pipe": regular.ErrNotRegular, "socket": regular.ErrNotRegular,
		"directory": syscall.EISDIR, "missing": os.ErrNotExist, "file/below": syscall.ENOTDIR,
	} {
		content, err := regular.ReadFile(at(name), 4)
		if !errors.Is(err, want) || want == nil && err != nil || want == nil && name != "empty" && string(content) != "1234" {
			t.Errorf("%s: %q, %v, want %v", name, content, err, want)
		}
	}
	// A device without an end.
	if _, err := regular.ReadFile("/dev/zero", 4); !errors.Is(err, regular.ErrNotRegular) {
		t.Errorf("/dev/zero: %v", err)
	}
}
