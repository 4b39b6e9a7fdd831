package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// What a killed process has not finished is removed by the next one, and
// nothing of it is taken for content or a record.
func TestLeftoversOfACrash(t *testing.T) {
	root := t.TempDir()
	crashed := filepath.Join(root, "tmp", "CRASHED")
	dgst := digest.FromString("half of it")
	for path, content := range map[string]string{
		filepath.Join(crashed, "lock"):                          "",
		filepath.Join(crashed, "spool-123"):                     "half a blob",
		filepath.Join(crashed, "commit-ABC"):                    "a blob that was about to be published",
		filepath.Join(crashed, "record-ABC"):                    `{"descriptor":{"dig`,
		filepath.Join(crashed, "sub", "whatever"):               "else",
		filepath.Join(root, "tmp", "BEFORE-ITS-LOCK", "spool-"): "",
		filepath.Join(root, "tmp", "stray file"):                "not ours",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	log, logger := newLog()
	s := open(t, root, disk.Options{Logger: logger})
	s.WaitForCount()

	left, err := os.ReadDir(filepath.Join(root, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range left {
		names = append(names, entry.Name())
	}
	if len(left) != 2 { // this process's and the stray file
		t.Errorf("tmp holds %q", names)
	}
	lines := log.String()
	if !strings.Contains(lines, "path="+crashed+" bytes=71\n") {
		t.Errorf("the removal of 71 bytes in %s is not in the log: %s", crashed, lines)
	}
	if strings.Contains(lines, "level=WARN") {
		t.Errorf("the log warns: %s", lines)
	}
	if _, err := s.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat: %v", err)
	}
	for entry, err := range s.All(t.Context()) {
		t.Errorf("All lists %+v, %v", entry, err)
	}
	for key, err := range s.Records().List(t.Context(), "") {
		t.Errorf("List lists %q, %v", key, err)
	}
}

// Two processes on one root do not touch each other's temporary files.
func TestAnotherProcessIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	first := open(t, root, disk.Options{})
	spool := storagetest.NewSpool(t, first.Spools(), []byte("content"))
	for range 3 {
		second, err := disk.Open(root, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		second.WaitForCount()
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Commit(t.Context(), digest.FromString("content"), spool); err != nil {
		t.Errorf("Commit after another process came and went: %v", err)
	}
	if err := first.Writable(t.Context()); err != nil {
		t.Error(err)
	}
}

// The kernel frees the lock of a process that was killed.
func TestKilledProcess(t *testing.T) {
	if root := os.Getenv("DISK_TEST_ROOT"); root != "" {
		s, err := disk.Open(root, disk.Options{Durability: disk.Always})
		if err != nil {
			t.Fatal(err)
		}
		storagetest.NewSpool(t, s.Spools(), []byte("unfinished"))
		storagetest.Commit(t, s, s.Spools(), []byte("finished"))
		os.Stdout.WriteString("ready\n")
		select {}
	}
	root := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), "DISK_TEST_ROOT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("waiting for the process: %d bytes, %v", n, err)
	}

	while := open(t, root, disk.Options{})
	while.WaitForCount()
	if spools := spools(t, root); len(spools) != 1 {
		t.Errorf("%q while the other process lives, want its spool", spools)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // says that it was killed

	after := open(t, root, disk.Options{})
	after.WaitForCount()
	if spools := spools(t, root); len(spools) != 0 {
		t.Errorf("%q after the other process was killed, want none", spools)
	}
	if got := storagetest.Read(t, after, digest.FromString("finished")); string(got) != "finished" {
		t.Errorf("read %q", got)
	}
	waitForCount(t, after, 8, 1)
}

// Many processes that start at once each get a directory that stays.
func TestProcessesStartTogether(t *testing.T) {
	root := t.TempDir()
	type opened struct {
		store *disk.Store
		err   error
	}
	results := make(chan opened)
	for range 16 {
		go func() {
			s, err := disk.Open(root, disk.Options{})
			results <- opened{s, err}
		}()
	}
	var stores []*disk.Store
	for range 16 {
		result := <-results
		if result.err != nil {
			t.Errorf("Open: %v", result.err)
			continue
		}
		stores = append(stores, result.store)
	}
	for _, s := range stores {
		s.WaitForCount()
	}
	for _, s := range stores {
		if err := s.Writable(t.Context()); err != nil {
			t.Errorf("Writable: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func spools(t *testing.T, root string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "tmp", "*", "spool-*"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}
