package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

const inForce = "the changed configuration is in force"

// takesEffect waits for a request to be answered with a status, which a reload
// has to achieve within two seconds.
func (w *weir) takesEffect(t *testing.T, path string, status int) {
	t.Helper()
	start := time.Now()
	eventually(t, "the change takes effect", func() bool { return w.get(t, path).Status == status })
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the change took %s to take effect", took)
	}
}

// rename replaces a file as editors do.
func rename(t *testing.T, path, content string) {
	t.Helper()
	writeFile(t, path+".new", content)
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
		change  func(t *testing.T, w *weir)
	}{
		{"rename", nil, func(t *testing.T, w *weir) { rename(t, w.Config, after) }},
		{"edit in place", nil, func(t *testing.T, w *weir) { writeFile(t, w.Config, after) }},
		{"remove and create", nil, func(t *testing.T, w *weir) {
			if err := os.Remove(w.Config); err != nil {
				t.Fatal(err)
			}
			writeFile(t, w.Config, after)
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
			}, func(t *testing.T, w *weir) {
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
					writeFile(t, filepath.Join(dir, generation.name, "base.toml"), string(base))
					writeFile(t, filepath.Join(dir, generation.name, "config.toml"), generation.content)
					reloads := w.log.count(inForce)
					symlink(t, generation.name, filepath.Join(dir, "..data"))
					eventually(t, "the swap is noticed", func() bool { return w.log.count(inForce) > reloads })
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
			w := startWeirIn(t, dir, before)
			expect(t, "before", w.get(t, manifestPath("before/org/app", "v1")), http.StatusOK, "")
			expect(t, "not yet", w.get(t, manifestPath("after/org/app", "v1")), http.StatusNotFound, "")
			c.change(t, w)
			w.takesEffect(t, manifestPath("after/org/app", "v1"), http.StatusOK)
			expect(t, "no more", w.get(t, manifestPath("before/org/app", "v1")), http.StatusNotFound, "")
			w.metricIs(t, 1, "weir_config_last_reload_successful")
		})
	}
}

// SIGHUP reloads, whether anything has changed or not.
func TestReloadOnHangup(t *testing.T) {
	t.Parallel()
	w := startWeir(t, block("mirror", upstreamtest.New(t)))
	started := w.metric(t, "weir_config_last_reload_success_timestamp_seconds")
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.logs(t, inForce)
	if got := w.metric(t, "weir_config_last_reload_success_timestamp_seconds"); got <= started {
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
	writeFile(t, secret, "old password\n")
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

	w := startWeir(t, blockOf("basic", nil, at(basic, `username = "reader"`, `password_file = "`+secret+`"`))+
		blockOf("mutual", nil, at(mutual, `client_certificate = "`+certificate+`"`, `client_private_key = "`+key+`"`, `server_ca_bundle = "`+ca+`"`)))
	expect(t, "the old password", w.get(t, manifestPath("basic/org/app", "v1")), http.StatusForbidden, "")
	expect(t, "a stranger's certificate", w.get(t, manifestPath("mutual/org/app", "v1")), http.StatusBadGateway, "")

	writeFile(t, secret, "new password\n")
	w.takesEffect(t, manifestPath("basic/org/app", "v1"), http.StatusOK)
	present(mutual)
	w.takesEffect(t, manifestPath("mutual/org/app", "v1"), http.StatusOK)
}

// What cannot be used leaves everything as it was, and is told once.
func TestReloadOfNonsense(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	config := block("mirror", upstream)
	w := startWeir(t, config)
	const refused = "the changed configuration cannot be used"
	for i, nonsense := range []string{"[repository", config + "\nfrobnicate = 1\n", block("mirror", upstream, `immutable_tags_exclusions = ["("]`)} {
		rename(t, w.Config, nonsense)
		eventually(t, "the refusal", func() bool { return w.log.count(refused) == i+1 })
		w.metricIs(t, 0, "weir_config_last_reload_successful")
		expect(t, "the old configuration", w.get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
	}
	if w.log.count(refused, filepath.Base(w.Config)+":") != 3 || w.log.count(refused, "frobnicate") != 1 {
		t.Error("the log does not say what is wrong where")
	}
	rename(t, w.Config, config+block("more", upstream))
	w.metricIs(t, 1, "weir_config_last_reload_successful")
	expect(t, "mended", w.get(t, manifestPath("more/org/app", "v1")), http.StatusOK, "")
	if got := w.log.count(refused); got != 3 {
		t.Errorf("the log tells %d times of what could not be used, want 3", got)
	}
}

// A download in flight does not notice that its upstream was configured anew,
// or that its repository is gone.
func TestDownloadSurvivesReload(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", 4*mib, 30)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib, gate))
	w := startWeir(t, block("mirror", upstream))
	p := w.pull(t, blobPath("mirror/org/app", dgst))
	arrived(t, gate, 1)
	rename(t, w.Config, blockOf("mirror", nil, at(upstream, "read_timeout_secs = 50")))
	w.logs(t, inForce)
	rename(t, w.Config, block("other", upstream))
	eventually(t, "the second reload", func() bool { return w.log.count(inForce) == 2 })
	expect(t, "gone", w.get(t, blobPath("mirror/org/app", dgst)), http.StatusNotFound, "")
	gate.Open()
	p.whole(t, "the download", dgst)
	expectWire(t, upstream, "the download", "GET "+blobPath("org/app", dgst)+" 200")
	w.metricIs(t, 0, "weir_flights")
	w.expectIntact(t)
}

// An upstream that has not changed keeps what is known about it: the challenge
// and the token, and that it wants to be left alone.
func TestReloadKeepsWhatIsKnown(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	one, two := upstream.AddBlob("org/app", []byte("one")), upstream.AddBlob("org/app", []byte("two"))
	limited := upstreamtest.New(t)
	limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""))
	config := block("mirror", upstream) + block("limited", limited)
	w := startWeir(t, config)
	expectContent(t, "before", w.get(t, blobPath("mirror/org/app", one)), one, statusStored)
	expect(t, "limited", w.get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	upstream.ResetRequests()
	limited.ResetRequests()

	rename(t, w.Config, config+block("more", upstreamtest.New(t)))
	w.logs(t, inForce)
	expectContent(t, "after", w.get(t, blobPath("mirror/org/app", two)), two, statusStored)
	expectWire(t, upstream, "after", "GET "+blobPath("org/app", two)+" 200")
	expect(t, "still limited", w.get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	expectWire(t, limited, "still limited")
}

// What only a restart can change is named; the log's level is not among it.
func TestReloadThatNeedsARestart(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	config := block("mirror", upstream)
	w := startWeir(t, "[log]\nlevel = \"warn\"\n"+config)
	w.get(t, "/v2/")
	rename(t, w.Config, "[log]\nlevel = \"info\"\n[global]\nmax_concurrent_fetches = 3\n[cache.redis]\nurl = \"redis://127.0.0.1:1/0\"\n"+config)
	w.logs(t, "restart", "global.max_concurrent_fetches", "cache.redis")
	if w.log.count(`"level":"INFO"`, "request") != 0 {
		t.Error("a request was logged below the level of the log")
	}
	w.get(t, "/v2/")
	w.logs(t, `"level":"INFO"`, `"msg":"request"`)
}
