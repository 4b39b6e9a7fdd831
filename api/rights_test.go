package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// Pages of tags have the tags that the client may pull, and lead past the others.
func TestPagesOfTagsSkipHiddenOnes(t *testing.T) {
	m := newMirror(t, "a/app")
	m.tagsOf = []string{"a", "hidden1", "hidden2", "v1", "v2", "zhidden"}
	m.refuses = func(_ Repository, q Question) bool {
		return q.Action == access.GetManifest && strings.Contains(q.Reference, "hidden")
	}
	for query, want := range map[string]string{
		"":                    `"tags":["a","v1","v2"]}`,
		"?n=1":                `"tags":["a"],"next":"/api/v1/repositories/a%2Fapp/tags?last=a\u0026n=1"}`,
		"?n=1&last=a":         `"tags":["v1"],"next":"/api/v1/repositories/a%2Fapp/tags?last=v1\u0026n=1"}`,
		"?n=1&last=v1":        `"tags":["v2"]}`,
		"?last=hidden1":       `"tags":["v1","v2"]}`,
		"?n=3":                `"tags":["a","v1","v2"]}`,
		"?last=v2":            `"tags":[]}`,
		"?last=v2&sizes=true": `"tags":[]}`,
	} {
		if w := m.get(t, "repositories/a%2Fapp/tags"+query); w.Code != 200 || w.Body.String() != `{"name":"a/app",`+want {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// A history has no manifest that the client may not pull. A description has the properties of an image, which
// are in its configuration, and the referrers only if the client may have these.
func TestPartsFollowTheRulesOfTheirContent(t *testing.T) {
	m := newMirror(t, "a/app")
	refused := Question{}
	m.refuses = func(_ Repository, q Question) bool { return q == refused }
	manifest, part := digest.FromString("v1"), digest.FromString("part")
	history, description := "repositories/a%2Fapp/tags/v1/history", "repositories/a%2Fapp/manifests/"+manifest.String()
	for _, one := range []struct {
		path, text string
		refused    Question
	}{
		{history, digest.FromString("v0").String(), Question{access.GetManifest, digest.FromString("v0").String(), digest.FromString("v0")}},
		{history, digest.FromString("v0").String(), Question{Action: access.GetManifest, Reference: "v1"}},
		{description, `"labels"`, Question{Action: access.GetBlob, Digest: part}},
		{description, `"referrers":[{`, Question{Action: access.GetReferrers, Digest: manifest}},
	} {
		for _, hidden := range []bool{false, true} {
			refused = Question{}
			if hidden {
				refused = one.refused
			}
			if w := m.get(t, one.path); w.Code != 200 || strings.Contains(w.Body.String(), one.text) == hidden {
				t.Errorf("%s, hidden %t: %d %s", one.text, hidden, w.Code, w.Body)
			}
		}
	}
}

// A client is told of a request or a download if it may send the same request.
func TestRequestsAreQuestions(t *testing.T) {
	m := newMirror(t, "a/app")
	recent := traffic.NewRecent()
	m.opts.Recent = recent
	blob := digest.FromString("blob")
	m.runs = []download.State{{Repository: storage.RepoID{Namespace: "a", Name: "app"}, Digest: blob}}
	var asked []Question
	m.refuses = func(_ Repository, q Question) bool {
		asked = append(asked, q)
		return true
	}
	for _, one := range []struct {
		operation, reference string
		want                 Question
	}{
		{"manifest", "v1", Question{access.GetManifest, "v1", ""}},
		{"manifest", blob.String(), Question{access.GetManifest, blob.String(), blob}},
		{"blob", blob.String(), Question{access.GetBlob, "", blob}},
		{"tags", "", Question{Action: access.ListTags}},
		{"referrers", blob.String(), Question{access.GetReferrers, "", blob}},
		{"write", "v1", Question{access.GetManifest, "v1", ""}},
		{"other", "", Question{Action: access.GetManifest}},
	} {
		before := recent.Last()
		recent.Add(traffic.Request{Operation: one.operation, Repository: "a/app", ID: repositoryOf("a/app").ID, Reference: one.reference})
		asked = nil
		told, _, err := m.requestsSince(t.Context(), before, RequestFilter{})
		if err != nil || len(told.Requests) != 0 || !slices.Equal(asked, []Question{one.want}) {
			t.Errorf("%s %s: asked %+v, told %+v, %v", one.operation, one.reference, asked, told, err)
		}
	}
	asked = nil
	if w := m.get(t, "downloads"); !strings.Contains(w.Body.String(), `"downloads":[]`) || !slices.Equal(asked, []Question{{access.GetBlob, "", blob}}) {
		t.Errorf("asked %+v: %s", asked, w.Body)
	}
}

// A client that leaves gets no answer that says that content is missing: the rules may not have been asked.
func TestLeavingIsNoRefusal(t *testing.T) {
	m := newMirror(t, "a/app")
	m.opts.Pins, m.opts.Remover = new(pinned), new(remover)
	ctx, leave := context.WithCancel(t.Context())
	m.refuses = func(Repository, Question) bool {
		leave()
		return true
	}
	for name, ask := range map[string]func() error{
		"tags":     func() error { _, err := m.Handler.Tags(ctx, "a/app", TagsQuery{}); return err },
		"tag":      func() error { _, err := m.Handler.Tag(ctx, "a/app", "v1"); return err },
		"history":  func() error { _, err := m.Handler.History(ctx, "a/app", "v1"); return err },
		"manifest": func() error { _, err := m.Handler.Manifest(ctx, "a/app", digest.FromString("v1").String()); return err },
		"refresh":  func() error { _, err := m.Handler.Refresh(ctx, "a/app:v1"); return err },
		"remove":   func() error { _, err := m.RemoveImage(ctx, "a/app:v1"); return err },
		"empty":    func() error { _, err := m.RemoveImage(ctx, "a/app"); return err },
		"pin":      func() error { _, err := m.Pin(ctx, "a/app:v1"); return err },
		"unpin":    func() error { _, err := m.Unpin(ctx, "a/app:v1"); return err },
		"warm":     func() error { _, err := m.Warm(ctx, []string{"a/app:v1"}, nil); return err },
	} {
		if err := ask(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(m.asked) != 0 {
		t.Errorf("the upstream was asked about %q", m.asked)
	}
}

// Each tag of a repository must be the client's to pull before all of them go.
func TestRemovalOfHiddenTags(t *testing.T) {
	m, r := newMirror(t, "a/app"), new(remover)
	m.opts.Remover, m.tagsOf = r, []string{"v1", "v2"}
	for hidden, want := range map[string]map[string]int{
		"":   {"a/app": 200, "a/app:v1": 200, "a/app@" + digest.FromString("v1").String(): 200},
		"v1": {"a/app": 403, "a/app:v1": 404, "a/app@" + digest.FromString("v1").String(): 403, "a/app@" + digest.FromString("v0").String(): 200},
		"v2": {"a/app": 403, "a/app:v1": 200, "a/app@" + digest.FromString("v1").String(): 200}, // it names nothing
	} {
		m.refuses = func(_ Repository, q Question) bool { return q.Reference == hidden && q.Action == access.GetManifest }
		if hidden == "" {
			m.refuses = nil
		}
		for image, status := range want {
			r.asked = nil
			w := m.do(t, http.MethodDelete, "images/"+strings.ReplaceAll(image, "/", "%2F"))
			expectDescribed(t, "/images/{image}", w.Code, w.Body.Bytes())
			if w.Code != status || (len(r.asked) > 0) != (status == 200) {
				t.Errorf("without %q, %s: %d %s, removed %q", hidden, image, w.Code, w.Body, r.asked)
			}
		}
	}
	m.refuses = func(_ Repository, q Question) bool { return q.Action == access.ListTags }
	for image, status := range map[string]int{"a%2Fapp": 403, "a%2Fapp:v1": 200, "a%2Fapp@" + digest.FromString("v1").String(): 200} {
		if w := m.do(t, http.MethodDelete, "images/"+image); w.Code != status {
			t.Errorf("without a list, %s: %d %s", image, w.Code, w.Body)
		}
	}
}
