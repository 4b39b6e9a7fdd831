package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A client asks for lists and content that it invents. Of 270 such requests,
// 180 left a file and 30 a repository's directories, for ever. Now the only record is
// that of the tags.
func TestInventedQuestionsLeaveNothing(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	for i := range 30 {
		random := digest.FromString(fmt.Sprint(i)).String()
		for path, want := range map[string]int{
			fmt.Sprintf("/v2/mirror/org/app/tags/list?x=%d", i):                             http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/app/tags/list?n=%d", i+1):                           http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/app/tags/list?last=%d", i):                          http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/none%d/tags/list", i):                               http.StatusNotFound,
			"/v2/mirror/org/app/referrers/" + random:                                        http.StatusOK,
			"/v2/mirror/org/app/referrers/" + random + "?artifactType=application/" + "x":   http.StatusOK,
			fmt.Sprintf("/v2/mirror/org/none%d/referrers/%s?artifactType=%d", i, random, i): http.StatusOK,
			manifestPath(fmt.Sprint("mirror/org/none", i), "v1"):                            http.StatusNotFound,
			blobPath(fmt.Sprint("mirror/org/none", i), digest.Digest(random)):               http.StatusNotFound,
		} {
			expect(t, path, w.Get(t, path), want, "")
		}
	}
	for _, asked := range upstream.Requests() {
		if strings.Contains(asked, "x=") {
			t.Fatalf("the upstream was asked %s", asked)
		}
	}
	var all []string
	for _, file := range files(t, dir) {
		if strings.Contains(file, "/records/") {
			all = append(all, file)
		}
	}
	if len(all) > 8 {
		t.Errorf("%d files and directories of records, such as %q", len(all), all[:8])
	}
}
