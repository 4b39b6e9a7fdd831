package cluster_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/cluster"
)

// However many replicas a stranger invents, few are told of at once.
func TestManyMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for n := range 1000 {
			b.redis.members[fmt.Sprintf(`{"v":%d,"id":"x","url":"http://nowhere:%d"}`, 1+n%2, 1000+n)] = time.Now().Add(time.Hour)
		}
		one := b.start("one", func(o *cluster.Options) { o.Secret = "" })
		// The very first heartbeat may come before the bench has given it a Redis. The next one
		// is a second later then, and a third of the lease later otherwise.
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if lines := one.log.Count("level=WARN"); lines == 0 || lines > 8 {
			t.Errorf("%d lines at the first heartbeat", lines)
		}
	})
}

// Replicas that cannot work together say why, once. One that is started again is no twin of
// itself.
func TestPresence(t *testing.T) {
	at := func(url string) func(*cluster.Options) { return func(o *cluster.Options) { o.URL = url } }
	for name, tc := range map[string]struct {
		others func(b *bench)
		texts  []string // of the one line
	}{
		"alone":             {func(*bench) {}, nil},
		"another one":       {func(b *bench) { b.start("two") }, []string{"level=INFO", "another replica can be reached", "http://two:8001"}},
		"a twin":            {func(b *bench) { b.start("two", at("http://one:8001")) }, []string{"level=WARN", "another replica has the same address"}},
		"unreachable":       {func(b *bench) { b.start("two", at("http://nowhere:8001")) }, []string{"level=WARN", "another replica cannot be reached", "http://nowhere:8001", "connection to nowhere:8001 refused"}},
		"a wrong port":      {func(b *bench) { b.start("two", at("http://public:8000")) }, []string{"level=WARN", "another replica cannot be reached", "the answer does not come from a replica"}},
		"leads to this one": {func(b *bench) { b.start("two", at("http://balancer:8001")) }, []string{"level=WARN", "the address of another replica leads to this one"}},
		"a stranger":        {func(b *bench) { b.start("two", func(o *cluster.Options) { o.Secret = secret + secret }) }, []string{"level=WARN", "replicas with a different secret share this Redis", "replicas=1"}},
		"strangers for a moment": {func(b *bench) {
			b.redis.members[`{"v":1,"id":"x","url":"http://two:8001","seal":"old"}`] = time.Now()
		}, nil},
		"strangers, one with a seal of another": {func(b *bench) {
			for _, seal := range []string{"", "AAAA"} {
				b.redis.members[fmt.Sprintf(`{"v":1,"id":"x","url":"http://two:8001","seal":%q}`, seal)] = time.Now().Add(time.Hour)
			}
		}, []string{"level=WARN", "replicas with a different secret share this Redis", "replicas=2"}},
		"garbage": {func(b *bench) {
			for _, value := range []string{"", "{", `{"url":"x"}`, `[1]`, `{"v":1,"id":"x","url":"http://a/b"}`} {
				b.redis.members[value] = time.Now().Add(time.Hour)
			}
		}, nil},
		"another version": {func(b *bench) {
			b.redis.members[`{"v":2,"id":"x","url":"http://two:8001"}`] = time.Now().Add(time.Hour)
		}, []string{"level=WARN", "a replica of another version shares this Redis"}},
		"started again": {func(b *bench) {
			earlier := b.start("earlier", at("http://one:8001"))
			time.Sleep(lease)
			earlier.UseBoard(nil, "")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				unsealed := func(o *cluster.Options) {
					if name == "another version" { // it has other fields, which none can seal
						o.Secret = ""
					}
				}
				// A server of clients.
				script(t, b.network, "public:8000", say("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
				if name != "leads to this one" {
					tc.others(b)
				}
				one := b.start("one", unsealed)
				// A balancer in front of this replica.
				b.network.Alias("balancer:8001", "one:8001")
				if name == "leads to this one" {
					tc.others(b)
				}
				time.Sleep(10 * lease)
				synctest.Wait()
				lines := one.log.Count("level=WARN") + one.log.Count("level=INFO")
				if len(tc.texts) == 0 && lines != 0 || len(tc.texts) > 0 && (lines != 1 || one.log.Count(tc.texts...) != 1) {
					t.Errorf("want one line with %q:\n%s", tc.texts, one.log)
				}
			})
		})
	}
}
