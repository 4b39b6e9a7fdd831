package fleet

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v3"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const project = "../../contrib/compose/fleet"

// secrets are the variables of the project's .env.
func secrets() []string {
	return []string{"S3_ACCESS_KEY=" + harness.BucketKey, "S3_SECRET_KEY=" + harness.BucketSecret, "CLUSTER_SECRET=" + replicaSecret}
}

// The file of the project is one that docker-compose takes, and starts the parts with the
// files that the next test runs. Without the secrets it is refused.
func TestComposeFleetFile(t *testing.T) {
	t.Parallel()
	program := testutil.Program(t, "docker-compose", "docker-compose")
	parse := func(env ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), program, "-f", filepath.Join(project, "compose.yaml"), "config")
		cmd.Env = append(os.Environ(), env...)
		return cmd.CombinedOutput()
	}
	if out, err := parse(); err == nil || !strings.Contains(string(out), "README.md") {
		t.Errorf("without secrets: %v\n%s", err, out)
	}
	out, err := parse(secrets()...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var file struct {
		Services map[string]struct {
			Image       string            `yaml:"image"`
			Environment map[string]string `yaml:"environment"`
			Volumes     []any             `yaml:"volumes"`
			Ports       []any             `yaml:"ports"`
			ReadOnly    bool              `yaml:"read_only"`
			CapDrop     []string          `yaml:"cap_drop"`
		} `yaml:"services"`
	}
	harness.Must(t, yaml.Unmarshal(out, &file))
	balancer, err := os.ReadFile(filepath.Join(project, "config/nginx.conf"))
	harness.Must(t, err)
	for name, s := range file.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s has too many rights: %+v", name, s)
		}
		if (len(s.Ports) > 0) != (name == "balancer") {
			t.Errorf("%s publishes %v", name, s.Ports)
		}
		if s.Image != "weir:latest" {
			continue
		}
		if mounted := fmt.Sprint(s.Volumes); !strings.Contains(mounted, "config") || !strings.Contains(mounted, "data-"+name[len(name)-1:]) || s.Environment["CLUSTER_SECRET"] != replicaSecret {
			t.Errorf("%s has %s and %v", name, mounted, s.Environment)
		}
		if !strings.Contains(string(balancer), "server "+name+":8000 ") {
			t.Errorf("the balancer does not know %s", name)
		}
	}
	if len(file.Services) != 6 {
		t.Errorf("there are %d services", len(file.Services))
	}
	readme, err := os.ReadFile(filepath.Join(project, "README.md"))
	harness.Must(t, err)
	for _, variable := range secrets() {
		if name, _, _ := strings.Cut(variable, "="); !strings.Contains(string(readme), name+"=") {
			t.Errorf("README.md does not set %s", name)
		}
	}
}

// edited is a file of the project in which texts are replaced. Each of them must be there.
func edited(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(project, "config", name))
	harness.Must(t, err)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			t.Fatalf("%s lacks %q", name, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

// The files of the project, with other addresses, run three mirrors behind nginx that share a
// Redis and a bucket. A client pulls an image through nginx, whose parts come from upstream
// once, also with a replica killed.
func TestComposeFleet(t *testing.T) {
	t.Parallel()
	nginx, skopeo := testutil.Program(t, "nginx", "nginx-light"), testutil.Program(t, "skopeo", "skopeo")
	bucket, redis, upstream := harness.StartBucket(t), redistest.Start(t), upstreamtest.New(t)
	layers := [][]byte{content(2*mib, 1), content(mib, 2), content(1000, 3)}
	manifest := upstream.AddImage("org/app", "1.0", layers...)
	config := edited(t, "config.toml", "https://registry-1.docker.io", upstream.URL.String())
	dir := harness.SocketDir(t, "nginx-")
	addr := testutil.FreeAddr(t)
	replace := []string{"listen 8000", "listen " + addr, "/tmp/", dir + "/"}
	var replicas []*harness.Weir
	for n := range 3 {
		w := harness.StartWeir(t, config, append(secrets(), "WEIR_SERVER_PORT=0", "WEIR_SERVER_BIND_ADDRESS=127.0.0.1", "WEIR_CLUSTER_PEER_PORT=0",
			"WEIR_BLOB_STORE_FS_ROOT_DIR="+t.TempDir(), "WEIR_BLOB_STORE_S3_ENDPOINT="+bucket.URL, "WEIR_CACHE_REDIS_URL="+redis.URL())...)
		replicas = append(replicas, w)
		replace = append(replace, fmt.Sprintf("weir-%d:8000", n+1), w.Addr)
	}
	file := filepath.Join(dir, "nginx.conf")
	harness.WriteFile(t, file, "user root;\n"+edited(t, "nginx.conf", replace...))
	harness.StartDaemon(t, exec.CommandContext(t.Context(), nginx, "-c", file, "-e", "stderr"))
	harness.Eventually(t, "nginx answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	})
	pull := func() {
		t.Helper()
		target := filepath.Join(t.TempDir(), "image")
		harness.Run(t, exec.CommandContext(t.Context(), skopeo, "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "docker://"+addr+"/docker.io/org/app:1.0", "dir:"+target))
		for _, layer := range layers {
			if got, err := os.ReadFile(filepath.Join(target, digest.FromBytes(layer).Encoded())); err != nil || string(got) != string(layer) {
				t.Errorf("a layer came with %d bytes of %d: %v", len(got), len(layer), err)
			}
		}
	}
	pull()
	f := &fleet{upstream: upstream}
	harness.Eventually(t, "the image is in the bucket", func() bool {
		for _, dgst := range []digest.Digest{manifest.Digest, digest.FromBytes(layers[0]), digest.FromBytes(layers[1]), digest.FromBytes(layers[2])} {
			if _, err := os.Stat(filepath.Join(bucket.Dir, key(dgst))); err != nil {
				return false
			}
		}
		return true
	})
	for _, w := range replicas {
		if answer := w.Get(t, "/v2/docker.io/org/app/blobs/"+digest.FromBytes(layers[0]).String()); answer.Status != http.StatusOK || string(answer.Body) != string(layers[0]) {
			t.Errorf("a replica answers %d, %d bytes", answer.Status, len(answer.Body))
		}
	}
	replicas[1].Kill()
	pull()
	pull()
	for _, layer := range layers {
		if got := f.bodies(digest.FromBytes(layer)); len(got) != 1 {
			t.Errorf("a layer was downloaded %d times: %q", len(got), got)
		}
	}
}
