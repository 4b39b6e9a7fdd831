package tests

import (
	"errors"
	"io/fs"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The garbage collector learns the memory limit of the control group, or of one above
// it. A limit of the environment wins.
func TestMemoryLimitOfTheControlGroup(t *testing.T) {
	testutil.Root(t)
	upstream := upstreamtest.New(t)
	for name, c := range map[string]struct {
		limits []int64 // of nested groups, the outermost first; 0: none
		env    []string
		want   string
	}{
		"a limit":               {[]int64{512 * mib}, nil, `"bytes":483183820`},
		"a limit above":         {[]int64{512 * mib, 0}, nil, `"bytes":483183820`},
		"a lower limit above":   {[]int64{512 * mib, 1024 * mib}, nil, `"bytes":483183820`},
		"a higher limit above":  {[]int64{1024 * mib, 512 * mib}, nil, `"bytes":483183820`},
		"three groups":          {[]int64{1024 * mib, 0, 0}, nil, `"bytes":966367641`},
		"no limit":              {[]int64{0}, nil, ` memory limit"`}, // the test itself may run in a group with one
		"of the environment":    {[]int64{512 * mib}, []string{"GOMEMLIMIT=300MiB"}, `"bytes":314572800`},
		"off, of the same":      {[]int64{512 * mib}, []string{"GOMEMLIMIT=off"}, `"msg":"there is no memory limit"`},
		"no limit but its own":  {[]int64{0}, []string{"GOMEMLIMIT=1GiB"}, `"bytes":1073741824`},
		"not of whole megabyte": {[]int64{512*mib + 4096}, nil, `"bytes":483187507`}, // groups count pages
	} {
		t.Run(name, func(t *testing.T) {
			group := memoryGroup(t, c.limits)
			w := harness.StartWeirAs(t, t.TempDir(), block("mirror", upstream), func(cmd *exec.Cmd) { startWithin(t, group, cmd) }, c.env...)
			w.Logs(t, `"level":"DEBUG"`, c.want)
		})
	}
}

// max_concurrent_requests limits the threads that run at once, to no more than there are
// processors.
func TestMaxConcurrentRequests(t *testing.T) {
	t.Parallel()
	registry := upstreamtest.New(t)
	registry.AddImage("org/app", "v1", []byte("a layer"))
	threads := func(limit string) float64 {
		w := harness.StartWeir(t, limit+block("mirror", registry), "GOMAXPROCS=3")
		expect(t, limit, w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
		if w.Log.Count("max_concurrent_requests") > 0 {
			t.Errorf("%s is warned about", limit)
		}
		return w.Metric(t, "go_sched_gomaxprocs_threads")
	}
	if got := threads(""); got != 3 {
		t.Errorf("without a limit, %v threads, want 3", got)
	}
	for limit, want := range map[string]float64{"0": 3, "1": 1, "2": 2, "64": 3} {
		if got := threads("[global]\nmax_concurrent_requests = " + limit + "\n"); got != want {
			t.Errorf("with a limit of %s, %v threads, want %v", limit, got, want)
		}
	}
}

// memoryGroup makes nested control groups with memory limits, and returns the innermost.
func memoryGroup(t *testing.T, limits []int64) string {
	t.Helper()
	root, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	second := false
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		root, file, second = "/sys/fs/cgroup", "memory.max", true
	}
	group, err := os.MkdirTemp(root, "weir-tests-")
	if err != nil {
		testutil.Missing(t, "control groups cannot be made here: "+err.Error())
	}
	t.Cleanup(func() {
		harness.Eventually(t, "the control groups are empty", func() bool {
			_ = exec.Command("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
			_, err := os.Stat(group)
			return errors.Is(err, fs.ErrNotExist)
		})
	})
	for depth, limit := range limits {
		if depth > 0 {
			if second {
				harness.Must(t, os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+memory"), 0))
			}
			group = filepath.Join(group, "inner")
			harness.Must(t, os.Mkdir(group, 0o755))
		}
		if limit > 0 {
			harness.Must(t, os.WriteFile(filepath.Join(group, file), []byte(strconv.FormatInt(limit, 10)), 0))
		}
	}
	return group
}

// Without a memory limit, the garbage has one. The environment can switch it off.
func TestGarbageHasALimit(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	for env, want := range map[string]float64{"GOMEMLIMIT=": 160 * mib, "GOMEMLIMIT=off": math.MaxInt64, "GOMEMLIMIT=1GiB": 1024 * mib} {
		w := harness.StartWeir(t, block("mirror", upstream), env)
		w.Logs(t, `"level":"DEBUG"`, "memory") // or that the control group is unknown
		if env == "GOMEMLIMIT=" && w.Log.Count("the garbage collector keeps to a memory limit") > 0 {
			continue // the test itself runs in a control group with one
		}
		harness.Eventually(t, env+" is in force", func() bool { return w.Metric(t, "go_gc_gomemlimit_bytes") == want })
	}
}
