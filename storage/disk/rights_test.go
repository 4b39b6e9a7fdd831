package disk_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/disk"
)

// Records are readable for their owner alone, new ones and those that replace others: some
// are keys.
func TestRightsOfRecords(t *testing.T) {
	root := t.TempDir()
	s, err := disk.Open(root, disk.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := filepath.Join(root, "records", "_acme", "server.key")
	for _, text := range []string{"first", "second"} {
		if err := s.Records().Put(t.Context(), "_acme/server.key", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", text, info.Mode(), err)
		}
		if err := os.Chmod(path, 0o640); err != nil { // as earlier versions wrote it
			t.Fatal(err)
		}
	}
}

// A directory that another user may write to is refused, with a path and a cause.
func TestRights(t *testing.T) {
	const stranger = 12345
	mode := func(path string, mode os.FileMode) func(root string) error {
		return func(root string) error { return os.Chmod(filepath.Join(root, path), mode) }
	}
	owner := func(path string, uid, gid int) func(root string) error {
		return func(root string) error { return os.Chown(filepath.Join(root, path), uid, gid) }
	}
	replaced := func(path string) func(root string) error {
		return func(root string) error {
			path, moved := filepath.Join(root, path), filepath.Join(root, "moved")
			return errors.Join(os.Rename(path, moved), os.Symlink(moved, path))
		}
	}
	const good = disk.Other
	for name, c := range map[string]struct {
		change []func(root string) error
		want   disk.Reason
	}{
		"as made":                             {nil, good},
		"closed":                              {[]func(string) error{mode("", 0o700)}, good},
		"others may read":                     {[]func(string) error{mode("", 0o755)}, good},
		"our group may write, as by fsGroup":  {[]func(string) error{mode("", os.ModeSetgid|0o775)}, good},
		"shared by design, as /tmp":           {[]func(string) error{mode("", os.ModeSticky|0o777)}, good},
		"all may write":                       {[]func(string) error{mode("", 0o777)}, disk.Exposed},
		"all may write, with a group's bit":   {[]func(string) error{mode("", os.ModeSetgid|0o777)}, disk.Exposed},
		"others may write, the group may not": {[]func(string) error{mode("", 0o757)}, disk.Exposed},
		"others may only write":               {[]func(string) error{mode("", 0o702)}, disk.Exposed},
		"another group may write":             {[]func(string) error{owner("", 0, stranger), mode("", 0o770)}, disk.Exposed},
		"another group may read":              {[]func(string) error{owner("", 0, stranger), mode("", 0o750)}, good},
		"another owner":                       {[]func(string) error{owner("", stranger, 0)}, disk.ForeignOwner},
		"another owner of the content":        {[]func(string) error{owner("blobs", stranger, 0)}, disk.ForeignOwner},
		"another owner of the quarantine":     {[]func(string) error{func(root string) error { return os.Mkdir(filepath.Join(root, "quarantine"), 0o700) }, owner("quarantine", stranger, 0)}, disk.ForeignOwner},
		"all may write records":               {[]func(string) error{mode("records", 0o777)}, disk.Exposed},
		"all may write in a sticky directory": {[]func(string) error{mode("tmp", os.ModeSticky|0o777)}, disk.Exposed},
		"all may write contents":              {[]func(string) error{mode("blobs/sha256", 0o777)}, disk.Exposed},
		"linked contents":                     {[]func(string) error{replaced("blobs/sha256")}, disk.NotDirectory},
		"linked records":                      {[]func(string) error{replaced("records")}, disk.NotDirectory},
		"linked temporary files":              {[]func(string) error{replaced("tmp")}, disk.NotDirectory},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			made, err := disk.Open(root, disk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := made.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(root, "blobs", "sha256"), 0o750); err != nil {
				t.Fatal(err)
			}
			for _, change := range c.change {
				if err := change(root); err != nil {
					t.Fatal(err)
				}
			}
			// A link to the root changes nothing.
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(root, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{root, link} {
				s, err := disk.Open(path, disk.Options{})
				if err == nil {
					err = s.Close()
				}
				if reason(err) != c.want || (err == nil) != (c.want == good) || err != nil && !strings.Contains(err.Error(), path) {
					t.Errorf("Open: %v, want the reason %d and the path", err, c.want)
				}
			}
			// A refused process leaves no directory of its own.
			if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 {
				t.Errorf("left %v", left)
			}
			// Maintenance may run as another user. It never goes through a link.
			s, err := disk.Open(root, disk.Options{Existing: true})
			if err != nil {
				if c.want != disk.NotDirectory {
					t.Errorf("maintenance: %v", err)
				}
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A process that is refused leaves a directory as it was, so that the right user can start.
func TestRefusedProcessLeavesNothing(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "blobs"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(root, disk.Options{}); reason(err) != disk.Exposed {
		t.Fatalf("Open: %v", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 || left[0].Name() != "blobs" {
		t.Errorf("left %v, %v", left, err)
	}
}
