package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// repository is the name of the repository that the clients read, at each server.
const repository = "bench/app"

// kind is a kind of server.
type kind struct {
	name    string
	program string // its file
	// start runs one with an empty directory. The settings are lines of Weir's configuration; others ignore them.
	start func(ctx context.Context, k *kind, dir, upstream, settings string) (*process, error)
}

// server is a running server of a kind. The upstream itself is one without a process.
type server struct {
	*kind
	*process
	url string
}

// The names of the columns.
const (
	direct       = "direct"
	goMemory     = "Go memory"
	goFiles      = "Go files"
	nginxFiles   = "nginx files"
	weir         = "Weir"
	registry2    = "Docker's registry 2"
	registry3    = "Docker's registry 3"
	nginxCache   = "nginx cache"
	filesMarker  = "serve-files"
	memoryMarker = "serve-memory"
)

var columns = []string{direct, goMemory, goFiles, nginxFiles, weir, registry2, registry3, nginxCache}

// caches are the kinds that fetch from the upstream what they do not have.
var caches = []string{weir, registry2, registry3, nginxCache}

// kinds builds or finds the programs.
func kinds(ctx context.Context, dir string) (map[string]*kind, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "weir")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", binary, "github.com/weirhq/weir/cmd/weir")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building Weir: %w: %s", err, out)
	}
	tool := exec.CommandContext(ctx, "go", "-C", "tests/tools/distribution", "tool", "-n", "registry")
	tool.Stderr = os.Stderr
	third, err := tool.Output()
	if err != nil {
		return nil, fmt.Errorf("building Docker's registry 3, at the top of the repository: %w", err)
	}
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		return nil, err
	}
	second, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, err
	}
	made := map[string]*kind{}
	for _, k := range []*kind{
		{direct, "", nil},
		{goMemory, self, startGo(memoryMarker)},
		{goFiles, self, startGo(filesMarker)},
		{nginxFiles, nginx, startNginxFiles},
		{weir, binary, startWeir},
		{registry2, second, startRegistry},
		{registry3, strings.TrimSpace(string(third)), startRegistry},
		{nginxCache, nginx, startNginxCache},
	} {
		made[k.name] = k
	}
	return made, nil
}

func startWeir(ctx context.Context, k *kind, dir, upstream, settings string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(addr, ":")
	global, rest, _ := strings.Cut(settings, "\n\n")
	config, err := writeConfig(dir, "weir.toml", fmt.Sprintf(`[server]
bind_address = %q
port = %s
[log]
format = "json"
[global]
%s
[blob_store.fs]
root_dir = %q
%s
[repository."bench"]
[[repository."bench".upstream]]
url = %q
`, host, port, global, filepath.Join(dir, "data"), rest, upstream))
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, dir, addr, k.program, "serve", "--config", config)
}

func startRegistry(ctx context.Context, k *kind, dir, upstream, _ string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config, err := writeConfig(dir, "registry.yml", fmt.Sprintf(`version: 0.1
log: {accesslog: {disabled: true}, level: error}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
proxy: {remoteurl: %q}
`, filepath.Join(dir, "data"), addr, upstream))
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, dir, addr, k.program, "serve", config)
}

// startNginxFiles serves the directory "www" of dir.
func startNginxFiles(ctx context.Context, k *kind, dir, _, _ string) (*process, error) {
	return startNginx(ctx, k, dir, "", fmt.Sprintf("root %s/www; default_type application/vnd.oci.image.manifest.v1+json;", dir))
}

// startNginxCache keeps each answer for a day. One request at a time fetches a missing one.
func startNginxCache(ctx context.Context, k *kind, dir, upstream, _ string) (*process, error) {
	return startNginx(ctx, k, dir,
		fmt.Sprintf("proxy_cache_path %s/cache levels=1:2 keys_zone=all:64m max_size=64g inactive=1d use_temp_path=off;", dir),
		fmt.Sprintf(`location / {
proxy_pass %s;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_cache all;
proxy_cache_key $uri;
proxy_cache_valid 200 1d;
proxy_cache_lock on;
proxy_cache_lock_timeout 1h;
proxy_cache_lock_age 1h;
}`, upstream))
}

func startNginx(ctx context.Context, k *kind, dir, zone, location string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config, err := writeConfig(dir, "nginx.conf", fmt.Sprintf(`user root;
daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
events { worker_connections 1024; }
http {
access_log off;
sendfile on;
keepalive_requests 100000000;
client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
%[2]s
server {
listen %[3]s;
%[4]s
}
}
`, dir, zone, addr, location))
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, dir, addr, k.program, "-c", config, "-p", dir, "-e", "stderr")
}

// startGo runs this program as a server of the directory "www" of dir, in the way of a marker.
func startGo(marker string) func(ctx context.Context, k *kind, dir, upstream, settings string) (*process, error) {
	return func(ctx context.Context, k *kind, dir, _, _ string) (*process, error) {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		www := filepath.Join(dir, "www")
		if err := os.MkdirAll(www, 0o755); err != nil { // of no images
			return nil, err
		}
		return startProcess(ctx, dir, addr, k.program, marker, addr, www)
	}
}

// serveMemory is the least that a server in Go can do, until it is killed: it answers with files
// that it has read before, without a log, a record or a look at the request beyond its path.
func serveMemory(addr, dir string) error {
	answers := make(map[string][]byte)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // the directory, at the start of an empty server
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		answers["/"+path], err = os.ReadFile(filepath.Join(dir, path))
		return err
	})
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // for local clients
		body := answers[r.URL.Path]
		header := w.Header()
		header["Content-Type"] = []string{"application/vnd.oci.image.manifest.v1+json"}
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
		_, _ = w.Write(body)
	}))
}

// serveFiles is a plain server of files, until it is killed.
func serveFiles(addr, dir string) error {
	files := http.FileServer(http.Dir(dir))
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // for local clients
		// It would read the beginning of each file to guess its type.
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		files.ServeHTTP(w, r)
	}))
}

func writeConfig(dir, name, text string) (path string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}
