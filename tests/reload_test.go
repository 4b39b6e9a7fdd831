package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const inForce = "the changed configuration is in force"

// takesEffect waits for a request to be answered with a status, which a reload has to achieve
// within seconds.
func takesEffect(t *testing.T, w *harness.Weir, path string, status int) {
	t.Helper()
	start := time.Now()
	harness.Eventually(t, "the change takes effect", func() bool { return w.Get(t, path).Status == status })
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the change took %s to take effect", took)
	}
}

// rename replaces a file as editors do.
func rename(t *testing.T, path, content string) {
	t.Helper()
	harness.WriteFile(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// symlink makes a symbolic link, or replaces one atomically.
func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// However a file is changed, the change takes effect. None of these tests runs
// beside others, since they are about time.
func TestReloadOnChange(t *testing.T) {
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	before, after := block("before", upstream), block("after", upstream)
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		change  func(t *testing.T, w *harness.Weir)
	}{
		{"rename", nil, func(t *testing.T, w *harness.Weir) { rename(t, w.Config, after) }},
		{"edit in place", nil, func(t *testing.T, w *harness.Weir) { harness.WriteFile(t, w.Config, after) }},
		{"remove and create", nil, func(t *testing.T, w *harness.Weir) {
			if err := os.Remove(w.Config); err != nil {
				t.Fatal(err)
			}
			harness.WriteFile(t, w.Config, after)
		}},
		{
			// A volume of a ConfigMap: each file is a link like
			// config.toml -> ..data/config.toml, with ..data -> ..1, and a
			// change swaps ..data.
			"kubernetes", func(t *testing.T, dir string) {
				if err := os.Mkdir(filepath.Join(dir, "..1"), 0o700); err != nil {
					t.Fatal(err)
				}
				symlink(t, "..1", filepath.Join(dir, "..data"))
				for _, name := range []string{"base.toml", "config.toml"} {
					symlink(t, "..data/"+name, filepath.Join(dir, name))
				}
			}, func(t *testing.T, w *harness.Weir) {
				dir := filepath.Dir(w.Config)
				base, err := os.ReadFile(filepath.Join(dir, "base.toml"))
				if err != nil {
					t.Fatal(err)
				}
				for _, generation := range []struct{ name, last, content string }{
					{"..2", "..1", before + "\n# nothing but a comment\n"},
					{"..3", "..2", after},
				} {
					if err := os.Mkdir(filepath.Join(dir, generation.name), 0o700); err != nil {
						t.Fatal(err)
					}
					harness.WriteFile(t, filepath.Join(dir, generation.name, "base.toml"), string(base))
					harness.WriteFile(t, filepath.Join(dir, generation.name, "config.toml"), generation.content)
					reloads := w.Log.Count(inForce)
					symlink(t, generation.name, filepath.Join(dir, "..data"))
					harness.Eventually(t, "the swap is noticed", func() bool { return w.Log.Count(inForce) > reloads })
					if err := os.RemoveAll(filepath.Join(dir, generation.last)); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			w := harness.StartWeirIn(t, dir, before)
			expect(t, "before", w.Get(t, manifestPath("before/org/app", "v1")), http.StatusOK, "")
			expect(t, "not yet", w.Get(t, manifestPath("after/org/app", "v1")), http.StatusNotFound, "")
			c.change(t, w)
			takesEffect(t, w, manifestPath("after/org/app", "v1"), http.StatusOK)
			expect(t, "no more", w.Get(t, manifestPath("before/org/app", "v1")), http.StatusNotFound, "")
			w.MetricIs(t, 1, "weir_config_last_reload_successful")
		})
	}
}

// SIGHUP reloads, whether anything has changed or not.
func TestReloadOnHangup(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, block("mirror", upstreamtest.New(t)))
	started := w.Metric(t, "weir_config_last_reload_success_timestamp_seconds")
	if err := w.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.Logs(t, inForce)
	if got := w.Metric(t, "weir_config_last_reload_success_timestamp_seconds"); got <= started {
		t.Errorf("the time of the last reload is %v, was %v", got, started)
	}
}

// The files that a configuration names are as good as the configuration.
func TestReloadOfNamedFiles(t *testing.T) {
	basic := upstreamtest.New(t, upstreamtest.WithBasic("reader", "new password"))
	basic.AddImage("org/app", "v1", []byte("a layer"))
	mutual, stranger := upstreamtest.New(t, upstreamtest.WithClientCertificates()), upstreamtest.New(t, upstreamtest.WithClientCertificates())
	mutual.AddImage("org/app", "v1", []byte("a layer"))

	files := t.TempDir()
	secret := filepath.Join(files, "password")
	harness.WriteFile(t, secret, "old password\n")
	certificate, key, ca := filepath.Join(files, "tls.crt"), filepath.Join(files, "tls.key"), filepath.Join(files, "ca.crt")
	copyOver := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		rename(t, to, string(content))
	}
	present := func(r *upstreamtest.Registry) {
		t.Helper()
		c, k := r.ClientCertificateFiles()
		copyOver(c, certificate)
		copyOver(k, key)
	}
	present(stranger)
	copyOver(mutual.CAFile(), ca)

	w := harness.StartWeir(t, blockOf("basic", nil, at(basic, `username = "reader"`, `password_file = "`+secret+`"`))+
		blockOf("mutual", nil, at(mutual, `client_certificate = "`+certificate+`"`, `client_private_key = "`+key+`"`, `server_ca_bundle = "`+ca+`"`)))
	expect(t, "the old password", w.Get(t, manifestPath("basic/org/app", "v1")), http.StatusForbidden, "")
	expect(t, "a stranger's certificate", w.Get(t, manifestPath("mutual/org/app", "v1")), http.StatusBadGateway, "")

	harness.WriteFile(t, secret, "new password\n")
	takesEffect(t, w, manifestPath("basic/org/app", "v1"), http.StatusOK)
	present(mutual)
	takesEffect(t, w, manifestPath("mutual/org/app", "v1"), http.StatusOK)
}

// A configuration that cannot be used changes nothing, and is logged once.
func TestReloadOfNonsense(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	config := block("mirror", upstream)
	w := harness.StartWeir(t, config)
	const refused = "the changed configuration cannot be used"
	for i, nonsense := range []string{"[repository", config + "\nfrobnicate = 1\n", block("mirror", upstream, `immutable_tags_exclusions = ["("]`)} {
		rename(t, w.Config, nonsense)
		harness.Eventually(t, "the refusal", func() bool { return w.Log.Count(refused) == i+1 })
		w.MetricIs(t, 0, "weir_config_last_reload_successful")
		expect(t, "the old configuration", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
	}
	if w.Log.Count(refused, filepath.Base(w.Config)+":") != 3 || w.Log.Count(refused, "frobnicate") != 1 {
		t.Error("the log does not say which setting of which file is wrong")
	}
	rename(t, w.Config, config+block("more", upstream))
	w.MetricIs(t, 1, "weir_config_last_reload_successful")
	expect(t, "mended", w.Get(t, manifestPath("more/org/app", "v1")), http.StatusOK, "")
	if got := w.Log.Count(refused); got != 3 {
		t.Errorf("the log has %d refused configurations, want 3", got)
	}
}

// A download in flight does not notice that its upstream was configured again,
// or that its repository is gone.
func TestDownloadSurvivesReload(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", 4*mib, 30)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib, gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	p := w.Pull(t, blobPath("mirror/org/app", dgst))
	arrived(t, gate, 1)
	rename(t, w.Config, blockOf("mirror", nil, at(upstream, "read_timeout_secs = 50")))
	w.Logs(t, inForce)
	rename(t, w.Config, block("other", upstream))
	harness.Eventually(t, "the second reload", func() bool { return w.Log.Count(inForce) == 2 })
	expect(t, "gone", w.Get(t, blobPath("mirror/org/app", dgst)), http.StatusNotFound, "")
	gate.Open()
	p.Whole(t, "the download", dgst)
	expectWire(t, upstream, "the download", "GET "+blobPath("org/app", dgst)+" 200")
	w.MetricIs(t, 0, "weir_downloads")
	w.ExpectIntact(t)
}

// An upstream that has not changed keeps its state: the challenge, the token
// and the cooldown.
func TestReloadKeepsWhatIsKnown(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	one, two := upstream.AddBlob("org/app", []byte("one")), upstream.AddBlob("org/app", []byte("two"))
	limited := upstreamtest.New(t)
	limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""))
	config := block("mirror", upstream) + block("limited", limited)
	w := harness.StartWeir(t, config)
	expectContent(t, "before", w.Get(t, blobPath("mirror/org/app", one)), one, statusStored)
	expect(t, "limited", w.Get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	upstream.ResetRequests()
	limited.ResetRequests()

	rename(t, w.Config, config+block("more", upstreamtest.New(t)))
	w.Logs(t, inForce)
	expectContent(t, "after", w.Get(t, blobPath("mirror/org/app", two)), two, statusStored)
	expectWire(t, upstream, "after", "GET "+blobPath("org/app", two)+" 200")
	expect(t, "still limited", w.Get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	expectWire(t, limited, "still limited")
}

// Settings that need a restart are named; the log's level is not among them.
func TestReloadThatNeedsARestart(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	config := block("mirror", upstream)
	w := harness.StartWeir(t, "[log]\nlevel = \"warn\"\n"+config)
	w.Get(t, "/v2/_catalog")
	rename(t, w.Config, "[log]\nlevel = \"info\"\n[global]\nmax_concurrent_fetches = 3\n[blob_store.fs]\nmax_unused = \"30d\"\n"+config)
	w.Logs(t, "restart", "global.max_concurrent_fetches", "blob_store.fs.max_unused")
	if w.Log.Count(`"level":"INFO"`, "request") != 0 {
		t.Error("a request was logged below the level of the log")
	}
	w.Get(t, "/v2/_catalog")
	w.Logs(t, `"level":"INFO"`, `"msg":"request"`)
}

// A file that is cut so that it is still valid takes no block away while its end is
// missing, and the log names the blocks that go when it has one.
func TestReloadOfACutFile(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	one := block("one", upstream)
	w := harness.StartWeir(t, one+block("two", upstream))
	harness.WriteFile(t, w.Config, strings.TrimSuffix(one, "\n"))
	w.Logs(t, "it lacks the repository blocks two, and its last line has lost its line feed", "The last one stays in force")
	for _, name := range []string{"one", "two"} {
		expect(t, name+", after the cut", w.Get(t, manifestPath(name+"/org/app", "v1")), http.StatusOK, "")
	}
	w.MetricIs(t, 0, "weir_config_last_reload_successful")
	harness.WriteFile(t, w.Config, one)
	w.Logs(t, inForce)
	w.Logs(t, "repository blocks are gone", `"keys":["two"]`)
	expect(t, "the block that stays", w.Get(t, manifestPath("one/org/app", "v1")), http.StatusOK, "")
	expect(t, "the block that is gone", w.Get(t, manifestPath("two/org/app", "v1")), http.StatusNotFound, "")
}
