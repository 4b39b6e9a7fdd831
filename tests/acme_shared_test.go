package tests

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/door/acme/acmetest"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
)

// Two replicas have a bucket, a Redis, a secret, and data directories of their own. The
// authority asks the one for the proof that did not order it, as behind a load balancer. One
// order is made, both serve its certificate, and the bucket has no key in clear. A replica that
// starts while the bucket is away serves its copy.
func TestReplicasShareCertificates(t *testing.T) {
	testutil.Long(t, "gets certificates from a real authority")
	t.Parallel()
	const ofRedis, ofCluster = "a secret of all instances of the test", "a secret of all replicas of the test"
	for name, c := range map[string]struct {
		http   bool
		shared string // with the URL of Redis
	}{
		"http-01, the secret of Redis":            {true, "[cache.redis]\nurl = %q\nsecret_key = \"" + ofRedis + "\"\n"},
		"tls-alpn-01, the secret of the replicas": {false, "[cache.redis]\nurl = %q\n[cluster]\npeer_port = 0\nsecret = \"" + ofCluster + "\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket, redis := harness.StartBucket(t), redistest.Start(t)
			pebble := acmetest.StartPebble(t, acmetest.PebbleOptions{DNS: acmetest.StartDNS(t, acmeZone, "", "")})
			var replicas [2]*harness.Weir
			var dirs, configs, addrs [2]string
			for i := range replicas {
				dirs[i], addrs[i] = t.TempDir(), testutil.FreeAddr(t)
				_, port, err := net.SplitHostPort(addrs[i])
				harness.Must(t, err)
				more := ""
				if c.http {
					more = "challenge = \"http-01\"\nhttp_port = " + port + "\n"
				}
				configs[i] = acmeTable(pebble, quotedHost(), more) + fmt.Sprintf(c.shared, redis.URL()) + bucket.Config("")
				if !c.http {
					configs[i] = "[server]\nport = " + port + "\n" + configs[i]
				}
			}
			front := pebble.TLSPort
			if c.http {
				front = pebble.HTTPPort
			}
			var asked atomic.Int32
			var ready [2]atomic.Pointer[harness.Weir]
			balance(t, net.JoinHostPort("127.0.0.1", front), func() string {
				asked.Add(1)
				chosen := ""
				// The first one may order before the other one has started.
				harness.Within(harness.Patience, func() bool {
					one, other := ready[0].Load(), ready[1].Load()
					if one == nil || other == nil {
						return false
					}
					for i, w := range []*harness.Weir{one, other} {
						if w.Log.Count("certificates: obtaining certificate") > 0 {
							chosen = addrs[1-i]
						}
					}
					return chosen != ""
				})
				return chosen
			})
			for i := range replicas {
				replicas[i] = harness.StartWeirIn(t, dirs[i], configs[i])
				ready[i].Store(replicas[i])
			}
			orders := 0
			for _, w := range replicas {
				serves(t, w, acmeHost)
				orders += w.Log.Count("the authority has issued a certificate")
			}
			first := leafOf(t, replicas[0].Addr)
			if orders != 1 || asked.Load() == 0 || !leafOf(t, replicas[1].Addr).Equal(first) {
				t.Errorf("%d orders, %d questions of the authority", orders, asked.Load())
			}
			expectSealed(t, filepath.Join(bucket.Dir, "records", "_acme"))

			replicas[1].Terminate(t)
			bucket.Terminate()
			w := harness.StartWeirIn(t, dirs[1], configs[1])
			if !leafOf(t, w.Addr).Equal(first) {
				t.Error("without the bucket, another certificate is served")
			}
		})
	}
}

// balance leads connections to the address that choose returns; "" refuses one.
func balance(t *testing.T, addr string, choose func() string) {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	harness.Must(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", choose())
				if err != nil {
					return
				}
				defer far.Close()
				_ = near.SetDeadline(time.Now().Add(harness.Patience))
				go func() { _, _ = io.Copy(far, near) }()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
}

// expectSealed fails the test unless there are records of keys and certificates below a
// directory, and none can be read.
func expectSealed(t *testing.T, dir string) {
	t.Helper()
	kinds := make(map[string]int)
	harness.Must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		kinds[filepath.Ext(path)]++
		text, err := os.ReadFile(path)
		// The value of a record in clear is base64 in JSON.
		for _, word := range []string{"modified", "PRIVATE KEY", "CERTIFICATE", "LS0tLS1CRUdJTi", "BEGIN"} {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("%s holds %q", path, word)
			}
		}
		if strings.Contains(path, "rw_test") || strings.Contains(path, "challenge_tokens") {
			t.Errorf("%s is left", path)
		}
		return err
	}))
	if kinds[".key"] < 2 || kinds[".crt"] == 0 { // one key is that of the account
		t.Errorf("the bucket has %v", kinds)
	}
}

// Without a secret, replicas on a bucket have certificates of their own, and say so.
func TestCertificatesWithoutSecret(t *testing.T) {
	t.Parallel()
	bucket := harness.StartBucket(t)
	table := fmt.Sprintf("[server.tls.acme]\nhosts = %s\ndirectory_url = \"https://%s/none\"\n", quotedHost(), testutil.FreeAddr(t))
	w := harness.StartWeir(t, table+bucket.Config(""))
	w.Logs(t, "each replica requests its own certificates", "Set cache.redis.secret_key or cluster.secret on all replicas")
	w.Logs(t, "cannot get a certificate")
	if _, err := os.Stat(filepath.Join(bucket.Dir, "records", "_acme")); !os.IsNotExist(err) {
		t.Errorf("the bucket has records of certificates: %v", err)
	}
	healthy(t, w)
}
