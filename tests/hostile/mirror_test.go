package hostile

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/weirhq/weir/tests/harness"
)

// maxSize is blob_store.fs.max_size, a small part of the content that clients ask for.
const maxSize = 64 * mib

// start starts the mirror with a block for each actor that has a registry, and the
// honest ones, and another mirror with those alone, which no stranger knows.
func (s *stage) start() {
	prepare := func(*exec.Cmd) {}
	if !*race {
		shipped := harness.BuildShipped(s.t)
		prepare = func(cmd *exec.Cmd) { cmd.Path, cmd.Args[0] = shipped, shipped }
	}
	s.mirror = harness.StartWeirAs(s.t, s.t.TempDir(), s.configuration(s.attackers), prepare, s.limit)
	s.alone = harness.StartWeirAs(s.t, s.t.TempDir(), s.configuration(nil), prepare, s.limit)
}

func (s *stage) configuration(attackers []*attacker) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[log]\nlevel = \"info\"\n[blob_store.fs]\nmax_size = \"%dMiB\"\n", maxSize/mib)
	if s.redis != nil && attackers != nil {
		fmt.Fprintf(&b, "[cache.redis]\nurl = %q\nkey_prefix = %q\nsecret_key = \"a secret that no stranger in Redis has\"\n", s.redis.URL(), redisPrefix)
	}
	for name, registry := range s.honest {
		fmt.Fprintf(&b, "[repository.%[1]q]\n[[repository.%[1]q.upstream]]\nurl = %[2]q\n", name, registry.server.URL)
		if registry.cdn != nil {
			fmt.Fprintf(&b, "username = %q\npassword = %q\n", username, password)
		}
	}
	for _, a := range attackers {
		if a.server == nil {
			continue
		}
		fmt.Fprintf(&b, "[repository.%[1]q]\n%[2]s\n[[repository.%[1]q.upstream]]\n", a.name, strings.Join(a.settings, "\n"))
		if a.via == nil {
			fmt.Fprintf(&b, "url = %q\n", a.server.URL)
		}
		for _, line := range a.via {
			b.WriteString(strings.Replace(line, "%q", fmt.Sprintf("%q", a.server.URL), 1) + "\n")
		}
	}
	return b.String()
}

// figures are the most that the mirror took so far, and what it wrote.
type figures struct {
	memory int64 // bytes resident
	disk   int64 // bytes of all its files
	lines  int   // of its log, without those that tell of one request each
	line   int   // bytes of the longest line
}

// observe takes the size of the mirror's data until it is told to stop, and returns the
// highest figures. The kernel itself keeps that of the memory.
func (s *stage) observe(stop <-chan struct{}) {
	for {
		s.most.disk = max(s.most.disk, s.onDisk())
		select {
		case <-stop:
			s.most.memory = s.peak()
			s.most.lines, s.most.line = logged(s.mirror.Log.String())
			return
		case <-tick():
		}
	}
}

// logged returns how many lines a log has that are not of one request, and the length of
// the longest line.
func logged(log string) (lines, longest int) {
	for line := range strings.Lines(log) {
		longest = max(longest, len(line))
		if !strings.Contains(line, `"msg":"request"`) {
			lines++
		}
	}
	return lines, longest
}

// peak is the largest resident memory of the mirror so far.
func (s *stage) peak() (bytes int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.mirror.Cmd.Process.Pid))
	if err != nil {
		s.violated("the mirror has died: %v", err)
		return 0
	}
	var size int64
	if match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); match != nil {
		_, err = fmt.Sscan(string(match[1]), &size)
	}
	if err != nil || size == 0 {
		s.violated("the kernel does not tell the memory of the mirror: %v", err)
	}
	return size * kib
}

// onDisk is the space that the mirror's files take at one moment: content, records, running
// downloads and all others. Files come, go and move while they are counted, for seconds on a
// busy machine, so only those count that were seen and are still there after the last one
// was seen. Files that came meanwhile are missing.
func (s *stage) onDisk() (sum int64) {
	seen := make(map[string]fs.FileInfo)
	err := filepath.WalkDir(s.mirror.Data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return ignoreMissing(err)
		}
		info, err := entry.Info()
		if err == nil {
			seen[path] = info
		}
		return ignoreMissing(err)
	})
	for path, before := range seen {
		after, goneErr := os.Lstat(path)
		switch {
		case goneErr == nil && os.SameFile(before, after):
			sum += min(taken(before), taken(after))
		case goneErr != nil && err == nil:
			err = ignoreMissing(goneErr)
		}
	}
	if err != nil {
		s.violated("the data of the mirror: %v", err)
	}
	return sum
}

// taken is the space that a file takes, without its holes.
func taken(info fs.FileInfo) int64 {
	return min(info.Size(), 512*info.Sys().(*syscall.Stat_t).Blocks)
}

// level is what an idle mirror holds.
type level struct{ goroutines, files float64 }

// settle waits until the mirror has nothing under way and its level is accepted, and
// returns the last level. All registries hang up: a connection that the mirror keeps for
// its next request is no leak.
func (s *stage) settle(accept func(level) bool) (level, bool) {
	var last level
	settled := harness.Within(harness.Patience, func() bool {
		for _, registry := range s.honest {
			registry.hangUp()
		}
		for _, a := range s.attackers {
			a.relent()
		}
		last = level{s.metric("go_goroutines"), s.metric("process_open_fds")}
		busy := s.metric("weir_downloads") + s.metric("weir_download_readers") + s.metric("weir_jobs")
		return busy == 0 && accept(last)
	})
	return last, settled
}

func (s *stage) metric(name string) float64 {
	s.t.Helper()
	return s.mirror.Metric(s.t, name)
}

// violations are the things that must not happen, in the words of the test.
type violations struct {
	mu    sync.Mutex
	texts []string
}

func (v *violations) violated(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.texts = append(v.texts, fmt.Sprintf(format, args...))
}
