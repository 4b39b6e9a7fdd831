package soak

import (
	"net/http"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// patience bounds every wait for a condition that ought to hold at once. It is shorter than that
// of other tests: a soak waits for several, and ends before the limit of go test.
const patience = time.Minute

// registry is a distribution process. It can be killed and started again.
type registry struct {
	*harness.Process
	addr string
}

// startRegistry runs a registry on a directory that registries may share. The
// auth section of its configuration may be empty.
func startRegistry(t *testing.T, name, root, auth string) *registry {
	t.Helper()
	r := &registry{addr: testutil.FreeAddr(t)}
	r.Process = harness.NewDistribution(t, name, r.addr, root, auth)
	r.Start()
	return r
}

// push stores all content. The registry asks for no credentials.
func (r *registry) push(t *testing.T, c *content) {
	t.Helper()
	pusher := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + r.addr}
	for repo, blobs := range c.blobs {
		for _, dgst := range blobs {
			pusher.PushBlob(t, repo, c.bodies[dgst])
		}
	}
	for _, indexes := range []bool{false, true} { // an index after the manifests that it names
		for _, image := range c.images {
			if c.isIndex(image.digest) == indexes {
				pusher.PushManifest(t, image.repo, image.tag, c.types[image.digest], c.bodies[image.digest])
			}
		}
	}
}
