package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// listening returns the configuration of a mirror at an address.
func listening(addr string) string {
	return "[server]\nport = " + addr[strings.LastIndexByte(addr, ':')+1:] + "\n"
}

// A mirror whose upstream leads back to it, by itself or through another mirror,
// says so at once. Each has the default block that a real one has.
func TestUpstreamThatLeadsBack(t *testing.T) {
	t.Parallel()
	hub := upstreamtest.New(t)
	image := hub.AddImage("org/app", "v1", []byte("a layer"))
	hubBlock := blockOf("docker.io", []string{"default = true"}, at(hub))
	first, second := testutil.FreeAddr(t), testutil.FreeAddr(t)
	leading := func(key, url string) string { return blockOf(key, nil, []string{fmt.Sprintf("url = %q", url)}) }

	a := harness.StartWeir(t, listening(first)+hubBlock+
		leading("itself", "http://"+first+"/itself")+
		leading("itself-by-name", "http://localhost:"+first[strings.LastIndexByte(first, ':')+1:]+"/itself-by-name")+
		leading("around", "http://"+second+"/around")+
		leading("tier", "http://"+second+"/docker.io"))
	harness.StartWeir(t, listening(second)+hubBlock+leading("around", "http://"+first+"/around"))

	for _, key := range []string{"itself", "itself-by-name", "around"} {
		for _, path := range []string{manifestPath(key+"/org/app", "v1"), blobPath(key+"/org/app", digest.FromString("x")), "/v2/" + key + "/org/app/tags/list"} {
			start := time.Now()
			answer := a.Get(t, path)
			if answer.Status != http.StatusLoopDetected || answer.ErrorCode() != "LOOP" ||
				!strings.Contains(string(answer.Body), fmt.Sprintf(`Set url of repository.\"%s\".upstream[0] to the registry itself`, key)) {
				t.Errorf("%s: %d %s", path, answer.Status, answer.Body)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("%s: answered after %s", path, took)
			}
			if answer := a.Do(t, http.MethodHead, path); answer.Status != http.StatusLoopDetected {
				t.Errorf("HEAD %s: %d", path, answer.Status)
			}
		}
	}
	// A mirror behind a mirror is no loop.
	pulled := a.Get(t, manifestPath("tier/org/app", "v1"))
	if pulled.Status != http.StatusOK || digest.FromBytes(pulled.Body) != image.Digest {
		t.Errorf("through two mirrors: %d %s", pulled.Status, pulled.Body)
	}
	for _, record := range hub.Log() {
		if passed := strings.Count(record.Header.Get("Via"), "1.1 weir-"); passed != 2 {
			t.Errorf("the registry was asked with Via: %s", record.Header.Get("Via"))
		}
	}
}

// Two mirrors that lead to each other, and are asked for the same content at the same
// moment, do not wait for each other. Mirrors that have a registry besides deliver
// its content.
func TestMirrorsThatLeadToEachOther(t *testing.T) {
	t.Parallel()
	hub := upstreamtest.New(t)
	first, second := testutil.FreeAddr(t), testutil.FreeAddr(t)
	leading := func(key, url string) []string {
		return []string{fmt.Sprintf("url = \"http://%s/%s\"\nread_timeout_secs = 60", url, key)}
	}
	blocks := func(other string) string {
		return blockOf("only", nil, leading("only", other)) + blockOf("before", nil, leading("before", other), at(hub))
	}
	a := harness.StartWeir(t, listening(first)+blocks(second))
	b := harness.StartWeir(t, listening(second)+blocks(first))
	for i := range 10 {
		layer := fmt.Sprint("layer ", i)
		hub.AddImage("app", fmt.Sprint("v", i), []byte(layer))
		statuses := map[string]int{"only": http.StatusLoopDetected, "before": http.StatusOK}
		// In every second round both mirrors have the content already, for another block.
		order := [][]string{{"only", "before"}, {"before", "only"}}[i%2]
		for _, key := range order {
			status := statuses[key]
			for _, path := range []string{
				manifestPath(key+"/app", fmt.Sprint("v", i)), blobPath(key+"/app", digest.FromString(layer)),
				"/v2/" + key + "/app/tags/list?n=" + fmt.Sprint(i+1),
			} {
				var clients sync.WaitGroup
				start := time.Now()
				for _, mirror := range []*harness.Weir{a, b} {
					clients.Go(func() {
						if answer := mirror.Get(t, path); answer.Status != status {
							t.Errorf("%s: %d %s", path, answer.Status, answer.Body)
						}
					})
				}
				clients.Wait()
				if took := time.Since(start); took > 45*time.Second {
					t.Fatalf("%s: answered after %s", path, took)
				}
			}
		}
	}
}
