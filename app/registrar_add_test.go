package app

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/pages"
)

// editing is a mirror whose page adds blocks.
type editing struct {
	*mirror

	dir  string // ui.edit_dir
	path string // of the configuration
	log  *testutil.LogBuffer
}

func newEditing(t *testing.T, ui, more string) editing {
	t.Helper()
	e := editing{dir: t.TempDir(), log: new(testutil.LogBuffer)}
	if err := os.Chmod(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, path := loadText(t, "[ui]\nedit_dir = \""+e.dir+"\"\n"+ui+more)
	logger := slog.New(slog.NewTextHandler(e.log, nil))
	m, err := build(cfg, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	reloads, err := startReloader(m.apply, config.Source{Files: []string{path}}, cfg, new(slog.LevelVar), m.gatherer, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reloads.close)
	m.state.reloads.Store(reloads)
	e.mirror, e.path = m, path
	return e
}

func (e editing) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// adding is the form of a registry that works, with the button that adds it.
func adding(address string, more ...string) url.Values {
	form := registryForm(address, "username", "alice", "password", "s3cret-word", "action", "add")
	for i := 0; i+1 < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return form
}

const privateToo = "allow_private_registries = true\n"

// The page writes a block to a file of its own, which is in force at once. The file can be removed.
func TestAddRegistryWritesABlock(t *testing.T) {
	server, _ := newCounted(t)
	e := newEditing(t, privateToo, "")
	w := visit(t, e.handler, "POST", addPage, adding(server.URL))
	to := w.Header().Get("Location")
	if w.Code != 303 || to != "/add-registry?added=registry.example&kind=private" || !slices.Contains(e.routing.keys(), "registry.example") {
		t.Fatalf("%d %s, blocks %q\n%s\n%s", w.Code, to, e.routing.keys(), w.Body, e.log)
	}
	if w := visit(t, e.handler, "GET", to, nil); !strings.Contains(w.Body.String(), "is in force") {
		t.Errorf("%s", w.Body)
	}
	if w := visit(t, e.handler, "GET", "/add-registry?added=other.example", nil); !strings.Contains(w.Body.String(), "is not in force") {
		t.Errorf("%s", w.Body)
	}
	path := filepath.Join(e.dir, "registry-registry.example.toml")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || len(e.files(t)) != 1 {
		t.Fatalf("%v %v, files %q", info, err, e.files(t))
	}
	cfg, err := config.Load(e.path)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(cfg.Namespaces, func(n config.Namespace) bool { return n.Key == "registry.example" })
	if u := cfg.Namespaces[i].Upstreams[0]; u.Password != "s3cret-word" || u.Username != "alice" || u.Reach != config.ReachNear {
		t.Errorf("%+v", u)
	}
	if log := e.log.String(); strings.Contains(log, "s3cret-word") || !strings.Contains(log, "a page added a block") {
		t.Errorf("the log says %s", log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); slices.Contains(e.routing.keys(), "registry.example"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the block stays without its file\n%s", e.log)
		}
	}
}

// Nothing is written for a block that takes names from another one, that does not work, or that the
// whole configuration does not bear.
func TestAddRegistryRefuses(t *testing.T) {
	server, requests := newCounted(t)
	e := newEditing(t, privateToo, "[[repository.\"taken.example\".upstream]]\nurl = \"https://taken.example\"\n[repository.hub]\nnamespace = \"host.example\"\n[[repository.hub.upstream]]\nurl = \"https://hub.example\"\n")
	write(t, filepath.Join(e.dir, "registry-mine.example.toml.off"), "mine")
	for says, form := range map[string]url.Values{
		"Already exists":                adding(server.URL, "key", "taken.example"),
		"Is below the block":            adding(server.URL, "key", "taken.example/team"),
		"Must begin with a host name":   adding(server.URL, "key", "library"),
		"is already the registry of":    adding(server.URL, "key", "host.example"),
		"gins with host.example:443, w": adding(server.URL, "key", "host.example:443"),
		"gins with taken.example:80, w": adding(server.URL, "key", "taken.example:80/x"),
		"too long for the name of a fi": adding(server.URL, "key", "a.a/"+strings.Repeat("a/", 60)+"b"),
		"first segments":                adding(server.URL, "key", "../x"),
		"the test failed":               adding(server.URL, "password", "wr0ng"),
		"Must not contain credentials":  adding("https://a:b@registry.example"),
		"it has a link-local address":   adding("http://169.254.169.254"),
		"certificate-problem":           adding(server.URL, "kind", "mtls"),
		"This page cannot add the bloc": adding(server.URL, "key", "taken.example", "action", "try"),
	} {
		w := visit(t, e.handler, "POST", addPage, form)
		if w.Code != 200 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%d, without %q\n%s", w.Code, says, w.Body)
		}
	}
	if names := e.files(t); len(names) != 1 {
		t.Errorf("files %q", names)
	}
	// The files of the operator have a mistake of their own.
	before := requests.Load()
	write(t, e.path, read(t, e.path)+"[log]\nlevel = \"secret-colour\"\n")
	w := visit(t, e.handler, "POST", addPage, adding(server.URL))
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, "have other problems") || strings.Contains(body, "secret-colour") || requests.Load() != before {
		t.Errorf("%d, %d requests\n%s", w.Code, requests.Load()-before, body)
	}
	closed := newEditing(t, "", "")
	if w := visit(t, closed.handler, "POST", addPage, adding(server.URL)); !strings.Contains(w.Body.String(), "the test failed") || len(closed.files(t)) != 0 {
		t.Errorf("a private address: %s", w.Body)
	}
	if w := visit(t, closed.handler, "POST", addPage, adding(server.URL), "X-Forwarded-For", "192.0.2.1"); w.Code != 403 {
		t.Errorf("a client on another machine: %d", w.Code)
	}
}

// A block that the page adds takes no request from another block, however the request spells the name: not from
// one of a file, of the built-in ones or of the page.
func TestAddedRegistryTakesNoNames(t *testing.T) {
	at := func(key string, more ...string) string {
		return "[repository.\"" + key + "\"]\n" + strings.Join(more, "\n") + "\n[[repository.\"" + key + "\".upstream]]\nurl = \"https://upstream.invalid\"\n"
	}
	const isDefault, isHub = "default = true", "namespace = \"docker.io\""
	for name, c := range map[string]struct {
		files string
		pages []string // keys of blocks that the page has added before
	}{
		"built-in blocks":         {"", []string{"registry.example"}},
		"keys without a host":     {at("hub", isDefault) + at("ghcr") + at("library") + at("mirror/quay.io"), nil},
		"keys below a host":       {at("quay.io/acme") + at("ghcr.io/a/b") + at("docker.io/nginx") + at("localhost:5000/a"), nil},
		"hosts of other keys":     {at("hub", isHub, isDefault) + at("team", "namespace = \"Quay.io:443\"") + at("hub/acme") + at("ghcr.io", "namespace = \"other.example\""), nil},
		"a default with its host": {at("docker.io", isDefault), []string{"quay.io/acme"}},
		"Docker Hub of the page":  {at("hub"), []string{"docker.io"}},
		"blocks of the page":      {at("hub"), []string{"quay.io/acme", "ghcr.io", "index.docker.io/a", "registry.example:5000"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEditing(t, "", c.files)
			r := registrar{mirror: e.mirror, adding: new(sync.Mutex)}
			add := func(key string) error {
				return r.Add(t.Context(), pages.Registry{Key: key, URL: "https://page.invalid", Default: true})
			}
			for _, key := range c.pages {
				if err := add(key); err != nil {
					t.Fatal(err)
				}
			}
			added := 0
			for _, key := range []string{
				"ghcr.io", "quay.io", "docker.io", "index.docker.io", "registry-1.docker.io", "ghcr.io:443", "quay.io:443", "registry.example", "registry.example:5000",
				"other.example", "localhost", "localhost:5000", "ghcr.io/a", "ghcr.io/a/b", "ghcr.io/a/b/c", "quay.io/acme", "quay.io/acme/app", "quay.io/other",
				"docker.io/acme", "docker.io/nginx", "docker.io/library", "docker.io/library/nginx", "index.docker.io/a", "registry-1.docker.io/a", "other.example/a", "localhost/a",
			} {
				keys := append(e.routing.keys(), key)
				before := e.resolutions(keys)
				if add(key) != nil {
					if now := e.resolutions(keys); len(e.files(t)) != len(c.pages) || !maps.Equal(now, before) {
						t.Errorf("%s was refused, and has changed the blocks", key)
					}
					continue
				}
				added++
				served := 0
				for request, now := range e.resolutions(keys) {
					switch was := before[request]; {
					case was == "" && strings.HasPrefix(now, key+" "):
						served++
					case was != "" && was != now:
						t.Errorf("with %s, %s leads to %q, and led to %q", key, request, now, was)
					}
				}
				if served == 0 {
					t.Errorf("the block %s serves nothing", key)
				}
				if err := r.Remove(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			if added < 4 {
				t.Errorf("only %d blocks could be added", added)
			}
		})
	}
}

// resolutions returns the key and the repository that each form of a request leads to, or "". Some names begin with
// the keys.
func (e editing) resolutions(keys []string) map[string]string {
	starts := []string{"", "nginx", "library", "acme", "a", "docker.io", "index.docker.io", "ghcr.io", "quay.io", "localhost", "localhost:5000"}
	hosts := []string{"", "docker.io", "INDEX.docker.io", "registry-1.docker.io", "ghcr.io", "GHCR.io", "ghcr.io:443", "quay.io", "quay.io:443", "registry.example", "registry.example:5000",
		"other.example", "localhost", "localhost:5000", "unknown.example"}
	for _, key := range keys {
		starts, hosts = append(starts, key), append(hosts, key, strings.ToUpper(key))
	}
	all := make(map[string]string)
	for _, start := range starts {
		for _, rest := range []string{"", "nginx", "app", "acme/app", "a/b/c", "library/nginx", "hub/nginx", "ghcr.io/a/b", "docker.io/acme/app"} {
			name := strings.Trim(start+"/"+rest, "/")
			for _, host := range hosts {
				ns, repo, err := e.routing.tables.Load().Resolve(host, name)
				if all[name+"?ns="+host] = ""; err == nil {
					all[name+"?ns="+host] = ns.Key() + " " + repo
				}
			}
		}
	}
	return all
}

// A file that is there stays, and a reload that fails takes the new one away.
func TestAddRegistryLeavesFiles(t *testing.T) {
	server, _ := newCounted(t)
	e := newEditing(t, privateToo, "")
	path := filepath.Join(e.dir, "registry-registry.example.toml")
	if err := os.Mkdir(path, 0o700); err != nil { // a directory is not read
		t.Fatal(err)
	}
	if w := visit(t, e.handler, "POST", addPage, adding(server.URL)); w.Code != 409 || !strings.Contains(w.Body.String(), "already") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	e.state.reloads.Load().apply = func(*config.Config) error { return errors.New("no memory") }
	if w := visit(t, e.handler, "POST", addPage, adding(server.URL)); w.Code != 409 || !strings.Contains(w.Body.String(), "no memory") || len(e.files(t)) != 0 {
		t.Errorf("%d, files %q\n%s", w.Code, e.files(t), w.Body)
	}
}

// A written file is whole, replaces nothing, follows no link, and leaves nothing beside it.
func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path, err := writeNew(dir, "a.toml", "text")
	if err != nil || read(t, path) != "text" {
		t.Fatal(path, err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(target, filepath.Join(dir, "b.toml")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.toml", "b.toml"} {
		if _, err := writeNew(dir, name, "other"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(target); err == nil || read(t, path) != "text" {
		t.Error("a file was replaced, or written through a link")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("%v", entries)
	}
	if _, err := writeNew(filepath.Join(dir, "none"), "a.toml", ""); err == nil {
		t.Error("a file in a directory that is not there")
	}
}

// The page lists the blocks that it has added, and removes them. A file that was changed by hand stays, and so
// does one without which the configuration cannot be used.
func TestRemoveAddedRegistry(t *testing.T) {
	server, _ := newCounted(t)
	e := newEditing(t, privateToo, "[[repository.\"taken.example\".upstream]]\nurl = \"https://taken.example\"\n")
	const removePage, key, name = "/remove-registry", "registry.example", "registry-registry.example.toml"
	form := url.Values{"key": {key}}
	if w := visit(t, e.handler, "POST", addPage, adding(server.URL)); w.Code != 303 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := visit(t, e.handler, "GET", addPage, nil); !strings.Contains(w.Body.String(), `action="/remove-registry"`) || strings.Contains(w.Body.String(), "s3cret-word") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	refused := func(why string, want int, form url.Values, header ...string) {
		t.Helper()
		w := visit(t, e.handler, "POST", removePage, form, header...)
		if w.Code != want || len(e.files(t)) != 1 || !slices.Contains(e.routing.keys(), key) {
			t.Errorf("%s: %d, files %q, blocks %q\n%s", why, w.Code, e.files(t), e.routing.keys(), w.Body)
		}
	}
	refused("another site", 403, form, "Sec-Fetch-Site", "cross-site")
	refused("another machine", 403, form, "X-Forwarded-For", "192.0.2.1")
	refused("a block of a file", 404, url.Values{"key": {"taken.example"}})
	refused("a path", 404, url.Values{"key": {"../" + key}})
	refused("no block", 404, nil)
	path := filepath.Join(e.dir, name)
	whole := read(t, path)
	write(t, path, whole+"max_redirect = 3\n")
	refused("a changed file", 404, form)
	if w := visit(t, e.handler, "GET", addPage, nil); !strings.Contains(w.Body.String(), "changed by hand") || strings.Contains(w.Body.String(), `action="/remove-registry"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	write(t, path, whole)
	applied := e.state.reloads.Load().apply
	e.state.reloads.Load().apply = func(*config.Config) error { return errors.New("no memory") }
	refused("a reload that fails", 409, form)
	if read(t, path) != whole {
		t.Errorf("the file is %s", read(t, path))
	}
	e.state.reloads.Load().apply = applied
	w := visit(t, e.handler, "POST", removePage, form)
	if to := w.Header().Get("Location"); w.Code != 303 || to != "/add-registry?removed=registry.example" || len(e.files(t)) != 0 || slices.Contains(e.routing.keys(), key) {
		t.Fatalf("%d %s, files %q, blocks %q\n%s", w.Code, to, e.files(t), e.routing.keys(), w.Body)
	}
	if w := visit(t, e.handler, "GET", addPage+"?removed=%3Cb%3E", nil); w.Code != 200 || !strings.Contains(w.Body.String(), "&lt;b&gt;") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if log := e.log.String(); strings.Contains(log, "s3cret-word") || !strings.Contains(log, "a page removed a block") || strings.Contains(log, "blocks are gone") {
		t.Errorf("the log says %s", log)
	}
	// A file that a person removes may be a mistake.
	if w := visit(t, e.handler, "POST", addPage, adding(server.URL)); w.Code != 303 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := e.state.reloads.Load().now(t.Context()); err != nil || !strings.Contains(e.log.String(), "blocks are gone") {
		t.Errorf("%v; the log says %s", err, e.log)
	}
}

// A login for the registry of a built-in block can be added, and the block is as before without it.
// Another registry takes no built-in name.
func TestLoginForABuiltInBlock(t *testing.T) {
	e := newEditing(t, "", "")
	r := registrar{mirror: e.mirror, adding: new(sync.Mutex)}
	hub := pages.Registry{Key: "docker.io", URL: "https://registry-1.docker.io", Username: "alice", Password: "s3cret-word", Default: true}
	other := hub
	other.URL = "https://registry.example"
	if problems, err := r.Conflicts(t.Context(), other); err != nil || len(problems) != 1 || problems[0].Field != "key" {
		t.Errorf("another registry: %v %v", problems, err)
	}
	if problems, err := r.Conflicts(t.Context(), hub); err != nil || len(problems) > 0 {
		t.Fatalf("%v %v", problems, err)
	}
	text, problems, err := r.Draft(t.Context(), hub)
	if err != nil || len(problems) > 0 || !strings.Contains(text, "password_file") || strings.Contains(text, "s3cret-word") || !strings.Contains(text, `[repository."quay.io"]`) {
		t.Errorf("%v %v\n%s", problems, err, text)
	}
	before := slices.Sorted(slices.Values(e.routing.keys()))
	hubNow := func() config.Namespace {
		t.Helper()
		namespaces := r.inForce().Namespaces
		return namespaces[slices.IndexFunc(namespaces, func(n config.Namespace) bool { return n.Key == "docker.io" })]
	}
	if err := r.Add(t.Context(), hub); err != nil {
		t.Fatal(err)
	}
	if n := hubNow(); n.Upstreams[0].Username != "alice" || !n.Default || n.Upstreams[0].Reach != config.ReachPublic {
		t.Errorf("%+v", n)
	}
	if now := slices.Sorted(slices.Values(e.routing.keys())); !slices.Equal(now, before) {
		t.Errorf("the blocks are %q, and were %q", now, before)
	}
	if problems, err := r.Conflicts(t.Context(), hub); err != nil || len(problems) != 1 {
		t.Errorf("once more: %v %v", problems, err)
	}
	if err := r.Remove(t.Context(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	if n := hubNow(); n.Upstreams[0].Username != "" || !n.Default {
		t.Errorf("%+v", n)
	}
}
