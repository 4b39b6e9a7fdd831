package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
)

// remover takes out nothing, and remembers what it was asked for.
type remover struct {
	asked []string
	fail  error
}

func (r *remover) Remove(_ context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Removed, error) {
	r.asked = append(r.asked, fmt.Sprintf("%s %q %q", repo, part.Tag, part.Digest))
	return namespace.Removed{Manifests: 1, Contents: 3, Bytes: 7}, r.fail
}

// A removal is about a tag, a manifest or a repository, of those that the client may know of.
func TestRemoveImage(t *testing.T) {
	m, r := newMirror(t, "a/app"), new(remover)
	m.hidden, m.opts.Remover = "a/secret", r
	dgst := digest.FromString("v1")
	remove := func(image string, status int, want string) {
		t.Helper()
		w := m.do(t, http.MethodDelete, "images/"+url.PathEscape(image))
		expectDescribed(t, "/images/{image}", w.Code, w.Body.Bytes())
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", image, w.Code, w.Body)
		}
	}
	for image, want := range map[string]string{
		"a/app": `a/app "" ""`, "a/app:latest": `a/app "latest" ""`, "a/app@" + dgst.String(): fmt.Sprintf(`a/app "" %q`, dgst), "a/app:v1@" + dgst.String(): fmt.Sprintf(`a/app "" %q`, dgst),
	} {
		r.asked = nil
		if remove(image, http.StatusOK, `{"name":"a/app","tags":[],"manifests":1,"contents":3,"bytes":7}`); len(r.asked) != 1 || r.asked[0] != want {
			t.Errorf("%s: removed %q, want %q", image, r.asked, want)
		}
	}
	r.asked = nil
	for _, image := range []string{"a/<script>", "a/app:", "a/app@sha256:12", "a/" + strings.Repeat("x", maxText)} {
		remove(image, http.StatusBadRequest, "%2F")
	}
	remove("none", http.StatusNotFound, "no such repository")
	remove("a/secret:v1", http.StatusNotFound, "no such repository")
	if len(r.asked) != 0 {
		t.Errorf("removed %q", r.asked)
	}
	for want, err := range map[string]error{"404 nothing": storage.ErrNotExist, "409 weir gc": namespace.ErrTooMany, "500 The log": errors.New("/secret"), "503 in time": context.DeadlineExceeded} {
		r.fail = err
		status, text, _ := strings.Cut(want, " ")
		remove("a/app:v1", map[string]int{"404": 404, "409": 409, "500": 500, "503": 503}[status], text)
	}
	if w := m.get(t, "images/a%2Fapp"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodDelete {
		t.Errorf("GET: %d %q", w.Code, w.Header())
	}
}
