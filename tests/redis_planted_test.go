package tests

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A stranger in a Redis without cache.redis.secret_key sends cooldowns that make no sense,
// of names that no block has, and of years. The mirror believes none but the last, for 15
// minutes, and tells no stranger's cooldown to a Redis that has lost it.
func TestPlantedCooldowns(t *testing.T) {
	testutil.Long(t, "waits until the mirror returns to a Redis that was away")
	t.Parallel()
	const invented = 10_000
	redis := redistest.Start(t)
	hub, marker := upstreamtest.New(t), upstreamtest.New(t)
	image := hub.AddImage("org/app", "v1", []byte("a layer"))
	blocks := block("mirror", hub) + block("marker", marker)
	config := func(prefix string) string {
		return fmt.Sprintf("[cache.redis]\nurl = %q\nkey_prefix = %q\n", redis.URL(), prefix) + blocks
	}
	// Another mirror with the same upstreams, and a prefix of its own, shows their names.
	client := redis.Client(t)
	other := harness.StartWeir(t, config("other"))
	names := make(map[*upstreamtest.Registry]string)
	for _, r := range []struct {
		registry *upstreamtest.Registry
		block    string
	}{{hub, "mirror"}, {marker, "marker"}} {
		r.registry.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600"))
		expect(t, "limited", other.Get(t, manifestPath(r.block+"/org/app", "v1")), http.StatusTooManyRequests, "")
		harness.Eventually(t, "the cooldown is in Redis", func() bool {
			for _, key := range client.Keys(t.Context(), "other:cooldown:*").Val() {
				name := strings.TrimPrefix(key, "other:cooldown:")
				if r.registry == hub || name != names[hub] {
					names[r.registry] = name
				}
			}
			return names[r.registry] != ""
		})
		r.registry.ClearFaults()
	}

	w := harness.StartWeir(t, config("victim"), "GOGC=10")
	plant := func(messages ...string) {
		t.Helper()
		pipe := client.Pipeline()
		for _, message := range messages {
			pipe.Publish(t.Context(), "victim:cooldowns", message)
		}
		_, err := pipe.Exec(context.WithoutCancel(t.Context()))
		harness.Must(t, err)
	}
	harness.Eventually(t, "the mirror listens", func() bool {
		return client.PubSubNumSub(t.Context(), "victim:cooldowns").Val()["victim:cooldowns"] == 1
	})
	about := func(name, left string) string {
		return fmt.Sprintf(`{"version":2,"name":%q,"left_ms":%s}`, name, left)
	}
	hubs := names[hub]
	plant("", "{", "null", "[]", `"`+hubs+`"`, strings.Repeat("[", 512), about(hubs, "0"), about(hubs, "-1"), about(hubs, "1.5"), about(hubs, `"600000"`),
		about(hubs, "9223372036854775808"), about(hubs, "1e400"), about(hubs, "null"), about(hubs, "[600000]"),
		strings.Replace(about(hubs, "600000"), "2", "3", 1), about(hubs, "600000")[:40], about(hubs+" ", "600000"),
		about(hubs, `600000,"x":"`+strings.Repeat("x", 2*kib)+`"`))
	before := heapAfter(t, w)
	var strangers []string
	for i := range invented {
		name := fmt.Sprintf("%032x", i)
		if i%4 == 0 { // nearly the longest message
			name = fmt.Sprintf("%0960x", i)
		}
		strangers = append(strangers, about(name, "600000"))
	}
	plant(strangers...)
	// Messages arrive in order, so all have arrived with the last one.
	plant(about(names[marker], "600000"))
	w.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", marker.Host)
	if got := w.Metric(t, "weir_upstream_cooldown", "upstream", hub.Host); got != 0 {
		t.Error("the mirror believes a message that makes no sense")
	}
	grown := heapAfter(t, w) - before
	t.Logf("the heap has grown by %d KiB", grown/kib)
	if grown > 5*mib/2 { // the invented names would take 4 MiB
		t.Errorf("the heap has grown by %d KiB", grown/kib)
	}
	expectContent(t, "beside them", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)

	plant(about(hubs, "900000000000"))
	w.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", hub.Host)
	limited := w.Get(t, manifestPath("mirror/org/app", "v2"))
	expect(t, "a cooldown of years", limited, http.StatusTooManyRequests, "")
	if after, err := strconv.Atoi(limited.Header.Get("Retry-After")); err != nil || after < 1 || after > 900 {
		t.Errorf("Retry-After is %q, want 900 at most", limited.Header.Get("Retry-After"))
	}

	redis.Restart()
	// The mirror says so when Redis has worked for ten seconds.
	if !harness.Within(2*time.Minute, func() bool { return w.Log.Count("rate limits of upstreams are shared through Redis again") > 0 }) {
		t.Fatal("the mirror does not return to Redis")
	}
	told := client.Keys(t.Context(), "victim:*").Val()
	t.Logf("after %d invented names, the mirror tells Redis %d cooldowns", invented, len(told))
	if len(told) > 0 {
		t.Errorf("the mirror tells Redis %d cooldowns of a stranger, such as %q", len(told), told[:min(3, len(told))])
	}
}
