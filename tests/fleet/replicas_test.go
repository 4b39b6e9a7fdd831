package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const replicaSecret = "a secret that all replicas of a fleet have"

// replicaConfig is the configuration of each replica. The lease is short, so that tests wait
// little for one that died.
func replicaConfig(redis, upstream string, more ...string) string {
	return fmt.Sprintf("[cache.redis]\nurl = %q\n[cluster]\nsecret = %q\npeer_port = 0\nlease_secs = 2\n%s\n", redis, replicaSecret, strings.Join(more, "\n")) + upstream
}

// fleet is several replicas.
type fleet struct {
	upstream *upstreamtest.Registry
	redis    *redistest.Server
	replicas []*harness.Weir
	images   int // of shares
}

// stores are the tables of what replicas keep: a disk each, or a bucket that all share.
var stores = map[string]func(*testing.T) string{
	"a disk each": func(*testing.T) string { return "" },
	"a bucket":    func(t *testing.T) string { return s3test.New(t).Config() + streamed },
}

// startFleet starts replicas without a bucket: each has a disk of its own.
func startFleet(t *testing.T, n int, settings ...string) *fleet {
	t.Helper()
	return startFleetOn(t, n, "", settings...)
}

// startFleetOn starts replicas with the table of a bucket, or with none.
func startFleetOn(t *testing.T, n int, bucket string, settings ...string) *fleet {
	t.Helper()
	f := &fleet{upstream: upstreamtest.New(t), redis: redistest.Start(t)}
	for range n {
		f.replicas = append(f.replicas, harness.StartWeir(t, bucket+replicaConfig(f.redis.URL(), block(f.upstream, settings...))))
	}
	return f
}

// bodies returns the GETs of a blob that ask for all that is left of it, and not for a
// sample.
func (f *fleet) bodies(dgst digest.Digest) []string {
	var list []string
	for _, r := range f.upstream.Log() {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URI, "/blobs/"+dgst.String()) && (r.Header.Get("Range") == "" || strings.HasSuffix(r.Header.Get("Range"), "-")) {
			list = append(list, r.String())
		}
	}
	return list
}

// Three replicas, with a disk each or with a bucket on a real server, get a cold image from their
// upstream once, however many clients pull it from each of them.
func TestReplicasDownloadOnce(t *testing.T) {
	testutil.Long(t, "1536 pulls of layers")
	for name, store := range map[string]func(*testing.T) string{
		"a disk each": stores["a disk each"],
		"a bucket":    func(t *testing.T) string { return harness.StartBucket(t).Config("") + streamed },
	} {
		t.Run(name, func(t *testing.T) { // one after the other: three mirrors and 96 clients fill a machine
			unstarved(t, func() bool { return downloadOnce(t, startFleetOn(t, 3, store(t))) })
		})
	}
}

func downloadOnce(t *testing.T, f *fleet) (hungry bool) {
	t.Helper()
	const layers, clients = 8, 96
	var bodies [][]byte
	for n := range layers {
		bodies = append(bodies, content(mib/4, byte(n)))
	}
	manifest := f.upstream.AddImage("org/app", "1.0-amd64", bodies...)
	index := f.upstream.AddIndex("org/app", "1.0", manifest)
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			w := f.replicas[n%len(f.replicas)]
			for _, m := range []struct {
				ref    string
				digest digest.Digest
			}{{"1.0", index.Digest}, {manifest.Digest.String(), manifest.Digest}} {
				if got := w.Pull(t, "/v2/mirror/org/app/manifests/"+m.ref).Wait(t); got.Err != nil || got.Digest != m.digest {
					t.Errorf("client %d: %s: %d, %v", n, m.ref, got.Status, got.Err)
				}
			}
			for i, body := range bodies {
				w.Pull(t, "/v2/mirror/org/app/blobs/"+digest.FromBytes(body).String()).Whole(t, fmt.Sprintf("client %d, layer %d", n, i), digest.FromBytes(body))
			}
		})
	}
	all.Wait()
	for _, w := range f.replicas {
		w.ExpectIntact(t)
	}
	if starved(t, f.replicas) {
		return true
	}
	for i, body := range bodies {
		if got := f.bodies(digest.FromBytes(body)); len(got) != 1 {
			t.Errorf("layer %d was downloaded %d times: %q", i, len(got), got)
		}
	}
	asked := slices.DeleteFunc(f.upstream.Requests(), func(r string) bool {
		return !strings.HasPrefix(r, http.MethodGet) || !strings.Contains(r, "/manifests/")
	})
	if len(asked) != 2 { // as for one client: the index by its tag, and the manifest by its digest
		t.Errorf("the upstream sent manifests %d times: %q", len(asked), asked)
	}
	return false
}

// Bytes of another replica prove no right: a repository whose upstream refuses a blob does not get it
// from a replica that has it for another repository.
func TestPeerProvesNothing(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	layer := content(mib, 20)
	f.upstream.AddBlob("org/app", layer)
	dgst := digest.FromBytes(layer)
	f.replicas[0].Pull(t, "/v2/mirror/org/app/blobs/"+dgst.String()).Whole(t, "its own", dgst)
	if got := f.replicas[1].Get(t, "/v2/mirror/other/app/blobs/"+dgst.String()); got.Status != http.StatusNotFound || strings.Contains(string(got.Body), string(layer[:100])) {
		t.Errorf("a repository without the blob gets %d, %d bytes", got.Status, len(got.Body))
	}
	// One that has it gets the bytes from a replica, and shows some of its own. The replica above
	// may have stored the blob by now, although it gave no byte of it to a client.
	got := f.replicas[2].Get(t, "/v2/mirror/org/app/blobs/"+dgst.String())
	if got.Status != http.StatusOK || digest.FromBytes(got.Body) != dgst {
		t.Errorf("%d, %d bytes", got.Status, len(got.Body))
	}
	if starved(t, f.replicas) {
		return // it works alone
	}
	if status := got.Header.Get("Cache-Status"); status != "weir; fwd=uri-miss; collapsed; detail=peer" {
		t.Error(status)
	}
	if list := f.bodies(dgst); len(list) > 2 { // the first download, and the one that was refused
		t.Errorf("the upstream got %q", list)
	}
}

// A tag is checked once for all replicas, and a "not found" of a tag or a blob is shared.
func TestReplicasCheckTagsOnce(t *testing.T) {
	t.Parallel()
	unstarved(t, func() bool {
		f := startFleet(t, 3, `tag_ttl = "1h"`, `negative_ttl = "1h"`)
		f.upstream.AddImage("org/app", "1.0", content(1000, 21))
		for tag, status := range map[string]int{"1.0": http.StatusOK, "missing": http.StatusNotFound} {
			var pulls []*harness.Pulling
			for _, w := range f.replicas {
				pulls = append(pulls, w.Pull(t, "/v2/mirror/org/app/manifests/"+tag))
			}
			for n, pull := range pulls {
				if pull.Wait(t); pull.Status != status {
					t.Errorf("%s, replica %d: %d", tag, n, pull.Status)
				}
			}
		}
		// The replica that asks for a blob tells the others, which wait for its turn to end.
		missing := digest.FromString("missing")
		var pulls []*harness.Pulling
		for _, w := range f.replicas {
			pulls = append(pulls, w.Pull(t, "/v2/mirror/org/app/blobs/"+missing.String()))
		}
		for n, pull := range pulls {
			if pull.Wait(t); pull.Status != http.StatusNotFound {
				t.Errorf("a missing blob, replica %d: %d", n, pull.Status)
			}
		}
		if starved(t, f.replicas) {
			return true
		}
		for _, part := range []string{"/manifests/1.0", "/manifests/missing", missing.String()} {
			asked := slices.DeleteFunc(f.upstream.Requests(), func(r string) bool { return !strings.Contains(r, part) })
			if len(asked) != 1 {
				t.Errorf("%s: the upstream was asked %q", part, asked)
			}
		}
		return false
	})
}

// replicaUser returns the user of docs/operations.md for replicas, in the form of
// redistest.Start. Its password is p4ss.
func replicaUser(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	harness.Must(t, err)
	rules := ""
	for _, sentence := range []string{"(?m)^ACL SETUSER (.*PASSWORD.*)$", "With `\\[cluster\\]`, the user also needs `([^`]+)`", "In a Redis Cluster, the user also needs `([^`]+)`"} {
		found := regexp.MustCompile(sentence).FindSubmatch(page)
		if found == nil {
			t.Fatalf("docs/operations.md does not say what a user of Redis needs: %s", sentence)
		}
		rules += string(found[1]) + " "
	}
	return append([]string{"--user"}, strings.Fields(strings.Replace(rules, "PASSWORD", "p4ss", 1))...)
}

// Replicas with certificates speak TLS, and a client without one of the fleet's authority is not
// served. Their user of Redis has the rights of docs/operations.md and no others.
func TestReplicasWithCertificates(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, replicaUser(t)...)
	authority, upstream := testutil.NewAuthority(t), upstreamtest.New(t)
	certificate, key := authority.IssueAs("replica", time.Now().AddDate(1, 0, 0), func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	config := fmt.Sprintf("[cache.redis]\nurl = \"redis://weir:p4ss@%s/0\"\nsecret_key = %q\n[cluster]\npeer_port = 0\nlease_secs = 2\ncertificate = %q\nkey = %q\nclient_ca_bundle = %q\n%s",
		redis.Addr(), replicaSecret, certificate, key, authority.File(), block(upstream))
	f := &fleet{upstream: upstream, redis: redis, replicas: []*harness.Weir{harness.StartWeir(t, config), harness.StartWeir(t, config)}}
	fo := follow(t, f, content(2*mib, 22), mib)
	fo.gate.Open()
	for n, pull := range fo.pulls {
		pull.Whole(t, fmt.Sprintf("replica %d", n), fo.layer)
	}
	if got := f.bodies(fo.layer); len(got) != 1 && !starved(t, f.replicas) {
		t.Errorf("the upstream got %q", got)
	}
	for _, w := range f.replicas {
		w.Logs(t, "another replica can be reached", "https://127.0.0.1:")
	}
	refused, err := redis.Client(t).Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil || len(refused) != 0 {
		t.Errorf("Redis refused %v, %v", refused, err)
	}
	at := regexp.MustCompile(`https://127\.0\.0\.1:[0-9]+`).FindString(f.replicas[0].Log.String())
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}}}
	if answer, err := stranger.Get(at + "/replica"); err == nil {
		answer.Body.Close()
		t.Errorf("a client without a certificate gets %s", answer.Status)
	}
}

// While a replica uploads a blob to the bucket, the others read it from that replica: it is
// downloaded once and uploaded once.
func TestUploadTakesItsTime(t *testing.T) {
	t.Parallel()
	unstarved(t, func() bool {
		server, hold := s3test.New(t), make(chan struct{})
		release := sync.OnceFunc(func() { close(hold) })
		t.Cleanup(release)
		server.Intercept(instead(func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/")
		},
			func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				<-hold
				next.ServeHTTP(w, r)
			}))
		f := startFleetOn(t, 3, server.Config()+streamed)
		layer := content(mib, 25)
		f.upstream.AddBlob("org/app", layer)
		dgst := digest.FromBytes(layer)
		for n, w := range f.replicas {
			w.Pull(t, "/v2/mirror/org/app/blobs/"+dgst.String()).Whole(t, fmt.Sprintf("replica %d", n), dgst)
		}
		release()
		inBucket(t, server, 0, dgst)
		if starved(t, f.replicas) {
			return true
		}
		if got := f.bodies(dgst); len(got) != 1 {
			t.Errorf("the upstream got %q", got)
		}
		uploads := slices.DeleteFunc(server.Requests(), func(r string) bool { return r != "PUT "+key(dgst) })
		if len(uploads) != 1 {
			t.Errorf("the bucket got %q", uploads)
		}
		return false
	})
}
