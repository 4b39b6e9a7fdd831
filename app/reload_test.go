package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
)

// reloading is a reloader with the configurations that it has applied.
type reloading struct {
	t       *testing.T
	path    string
	level   slog.LevelVar
	log     testutil.LogBuffer
	metrics *prometheus.Registry

	mu      sync.Mutex
	refuse  error
	applied []*config.Config
}

func startReloading(t *testing.T) *reloading {
	t.Helper()
	cfg, path := loadText(t, "[repository.\"ghcr.io\"]\n[[repository.\"ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n[log]\nlevel = \"info\"\n")
	r := &reloading{t: t, path: path, metrics: prometheus.NewRegistry()}
	logger := slog.New(slog.NewTextHandler(&r.log, nil))
	reloads, err := startReloader(r.apply, config.Source{Files: []string{path}}, cfg, &r.level, r.metrics, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reloads.close)
	return r
}

func (r *reloading) apply(cfg *config.Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	r.applied = append(r.applied, cfg)
	return nil
}

func (r *reloading) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.applied)
}

// append adds text to the configuration, over a file that is renamed into its
// place, as editors do.
func (r *reloading) append(text string) {
	r.t.Helper()
	content, err := os.ReadFile(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	next := r.path + ".new"
	write(r.t, next, string(content)+text)
	if err := os.Rename(next, r.path); err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits for a condition.
func (r *reloading) eventually(holds func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("it did not come about; the log says\n%s", r.log.String())
		}
	}
}

func (r *reloading) logged(text string) func() bool {
	return func() bool { return strings.Contains(r.log.String(), text) }
}

// values returns the reload metrics: whether the last one was successful, and how
// many succeeded and failed.
func (r *reloading) values() string {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return fmt.Sprint(values["weir_config_last_reload_successful"], values["weir_config_reloads_total success"], values["weir_config_reloads_total failure"])
}

// A changed file is applied once, with its log level. A setting that needs a
// restart is named.
func TestReload(t *testing.T) {
	r := startReloading(t)
	if got := r.values(); got != "1 0 0" {
		t.Errorf("at the start: %s", got)
	}
	r.append("format = \"json\"\n")
	r.eventually(r.logged("keys=[log.format]"))
	if r.count() != 1 || r.values() != "1 1 0" {
		t.Errorf("applied %d times, metrics %s", r.count(), r.values())
	}
	write(t, r.path, strings.Replace(read(t, r.path), `"info"`, `"debug"`, 1))
	r.eventually(func() bool { return r.level.Level() == slog.LevelDebug })
}

// A configuration that cannot be used changes nothing, and a later one can.
func TestReloadFails(t *testing.T) {
	r := startReloading(t)
	usable := read(t, r.path)
	r.append("level = 7\n")
	r.eventually(r.logged("The last one stays in force"))
	r.eventually(func() bool { return r.values() == "0 0 1" })
	if r.count() != 0 {
		t.Error("it was applied")
	}

	r.mu.Lock()
	r.refuse = errors.New("a file is missing")
	r.mu.Unlock()
	write(t, r.path, usable+"# changed\n")
	r.eventually(r.logged("a file is missing"))
	r.eventually(func() bool { return r.values() == "0 0 2" })

	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	write(t, r.path, usable+"# changed again\n")
	r.eventually(func() bool { return r.values() == "1 1 2" })
}

// A configuration that looks half-written changes nothing, however it came about.
func TestReloadRefusesHalfWrittenFiles(t *testing.T) {
	for name, text := range map[string]string{
		"truncated": "", "blank": " \n\n", "comments only": "# [repository]\n", "cut before its repositories": "[log]\nlevel = \"debug\"\n", "cut in a key": "[log]\nlev",
		"an empty table": "[repository]\n",
	} {
		for _, how := range []string{"written", "renamed", "signal"} {
			t.Run(name+", "+how, func(t *testing.T) {
				r := startReloading(t)
				usable := read(t, r.path)
				switch how {
				case "renamed":
					write(t, r.path+".new", text)
					if err := os.Rename(r.path+".new", r.path); err != nil {
						t.Fatal(err)
					}
				default:
					write(t, r.path, text)
				}
				if how == "signal" {
					if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
						t.Fatal(err)
					}
				}
				r.eventually(r.logged("The last one stays in force"))
				if r.count() != 0 || !strings.HasPrefix(r.values(), "0 0 ") || r.level.Level() != slog.LevelInfo {
					t.Errorf("applied %d times, metrics %s, level %s", r.count(), r.values(), r.level.Level())
				}
				write(t, r.path, usable+"# whole again\n")
				r.eventually(func() bool { return r.count() == 1 && strings.HasPrefix(r.values(), "1 1 ") })
			})
		}
	}
}

// Of several files, one may be cut so that it is still valid. It is refused if its end is
// gone; a file that ends as before is taken, and the log names the blocks that are gone.
func TestReloadOfCutFiles(t *testing.T) {
	block := func(key string) string {
		return fmt.Sprintf("[repository.%q]\ntag_ttl = \"60s\"\n[[repository.%[1]q.upstream]]\nurl = \"https://%[1]s\"\n", key)
	}
	one, two := "[log]\nlevel = \"info\"\n"+block("a.example"), block("b.example")+block("c.example")
	cut := func(text string) string { return strings.TrimSuffix(text, "\n") }
	for name, c := range map[string]struct {
		before, after [2]string
		refused       string // with this reason; "": it is taken
		gone          string // the blocks that the log names
	}{
		"one is emptied":                    {[2]string{one, two}, [2]string{one, ""}, "it is empty", ""},
		"one has comments only":             {[2]string{one, two}, [2]string{"# nothing\n", two}, "it is empty", ""},
		"both lose their blocks":            {[2]string{one, two}, [2]string{"[log]\nlevel = \"info\"\n", "[global]\nmin_speed = \"0B\"\n"}, "no [repository] block", ""},
		"cut between two blocks":            {[2]string{one, two}, [2]string{one, cut(block("b.example"))}, "lacks the repository blocks c.example, and its last line", ""},
		"rewritten and cut":                 {[2]string{one, two}, [2]string{one, "# new\n" + cut(block("c.example"))}, "lacks the repository blocks b.example, and", ""},
		"the first is cut":                  {[2]string{one, two}, [2]string{"[log]\nlevel = \"info\"", two}, "lacks the repository blocks a.example, and", ""},
		"cut in a number":                   {[2]string{one, two + "[global]\nmax_concurrent_fetches = 64\n"}, [2]string{one, two + "[global]\nmax_concurrent_fetches = 6"}, "has lost its line feed", ""},
		"cut between two settings":          {[2]string{one, block("b.example") + "username = \"u\"\npassword = \"p\"\n"}, [2]string{one, cut(block("b.example"))}, "has lost its line feed", ""},
		"cut at the end of a line":          {[2]string{one, two}, [2]string{one, block("b.example")}, "", "c.example"},
		"a block is removed from each":      {[2]string{one, two}, [2]string{"[log]\nlevel = \"info\"\n", block("c.example")}, "", "a.example b.example"},
		"a block moves to the other":        {[2]string{one, two}, [2]string{one + block("c.example"), block("b.example")}, "", ""},
		"only the last line feed is gone":   {[2]string{one, two}, [2]string{one, cut(two)}, "", ""},
		"no line feed, and a block more":    {[2]string{one, two}, [2]string{one, two + cut(block("d.example"))}, "", ""},
		"there was no line feed before":     {[2]string{one, cut(two)}, [2]string{one, cut(block("b.example"))}, "", "c.example"},
		"only the built-in ones were there": {[2]string{"[log]\nlevel = \"info\"\n", "[global]\nmin_speed = \"0B\"\n"}, [2]string{"[log]\nlevel = \"info\"\n", two}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			source := config.Source{Files: []string{filepath.Join(dir, "one.toml"), filepath.Join(dir, "two.toml")}}
			put := func(texts [2]string) {
				for i, text := range texts {
					write(t, source.Files[i]+".new", text)
				}
				for _, path := range source.Files {
					if err := os.Rename(path+".new", path); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(c.before)
			cfg, err := source.Load()
			if err != nil {
				t.Fatal(err)
			}
			r := &reloading{t: t, metrics: prometheus.NewRegistry()}
			reloads, err := startReloader(r.apply, source, cfg, &r.level, r.metrics, slog.New(slog.NewTextHandler(&r.log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(reloads.close)
			put(c.after)
			if c.refused != "" {
				r.eventually(r.logged("The last one stays in force"))
				if log := r.log.String(); r.count() != 0 || !strings.Contains(log, c.refused) {
					t.Errorf("applied %d times: %s", r.count(), log)
				}
				put([2]string{c.before[0], c.before[1] + "# whole again\n"})
			}
			r.eventually(r.logged("the changed configuration is in force"))
			r.eventually(func() bool { return r.count() == 1 && strings.HasPrefix(r.values(), "1 1 ") })
			if c.gone != "" { // the log names them last
				r.eventually(r.logged(c.gone))
			} else if strings.Contains(r.log.String(), "are gone") {
				t.Errorf("the log: %s", r.log.String())
			}
		})
	}
}

// A block that was really removed is gone as soon as its file ends with a line feed.
func TestReloadAfterACut(t *testing.T) {
	r := startReloading(t)
	r.append("[repository.\"quay.io\"]\n[[repository.\"quay.io\".upstream]]\nurl = \"https://quay.io\"\n")
	r.eventually(func() bool { return r.count() == 1 })
	whole := read(t, r.path)
	first := whole[:strings.Index(whole, "\n[repository.\"quay.io\"]")]
	write(t, r.path, first)
	r.eventually(r.logged("lacks the repository blocks quay.io"))
	write(t, r.path, first+"\n")
	r.eventually(r.logged("keys=[quay.io]"))
	if r.count() != 2 {
		t.Errorf("applied %d times", r.count())
	}
}

// Files beside the configuration are none of its changes. SIGHUP reloads without a
// change.
func TestReloadBySignal(t *testing.T) {
	r := startReloading(t)
	write(t, filepath.Join(filepath.Dir(r.path), "other.toml"), "nonsense")
	time.Sleep(3 * settle)
	if r.count() != 0 || strings.Contains(r.log.String(), "configuration") {
		t.Errorf("reloaded %d times: %s", r.count(), r.log.String())
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.eventually(func() bool { return r.count() == 1 })
}

// Kubernetes swaps a symbolic link that the file's own link leads through.
func TestReloadThroughLinks(t *testing.T) {
	cfg, path := loadText(t, "")
	dir := filepath.Dir(path)
	for _, version := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "config.toml"), read(t, path)+"# "+version+"\n")
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("one", "data")
	link("data/config.toml", "config.toml")

	applied := make(chan *config.Config, 1)
	reloads, err := startReloader(func(cfg *config.Config) error { applied <- cfg; return nil },
		config.Source{Files: []string{path}}, cfg, new(slog.LevelVar), prometheus.NewRegistry(), discard())
	if err != nil {
		t.Fatal(err)
	}
	defer reloads.close()
	link("two", "data")
	select {
	case <-applied:
	case <-time.After(time.Minute):
		t.Error("the swapped link was not noticed")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
