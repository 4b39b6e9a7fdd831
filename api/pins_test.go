package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// pinned is a list of pins that a test fills.
type pinned struct {
	all   []namespace.Pinned
	asked []string
	fail  error
}

func (p *pinned) All(context.Context) ([]namespace.Pinned, error) { return p.all, p.fail }

func (p *pinned) Pin(_ context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Pinned, error) {
	p.asked = append(p.asked, fmt.Sprintf("pin %s %q %q", repo, part.Tag, part.Digest))
	return pinnedAt(repo, part.Tag), p.fail
}

func (p *pinned) Unpin(_ context.Context, repo storage.RepoID, part namespace.Selection) (namespace.Pinned, error) {
	p.asked = append(p.asked, fmt.Sprintf("unpin %s %q %q", repo, part.Tag, part.Digest))
	return pinnedAt(repo, part.Tag), p.fail
}

func (p *pinned) Limit() int64 { return 1 << 30 }

func pinnedAt(repo storage.RepoID, tag string) namespace.Pinned {
	return namespace.Pinned{Pin: catalog.Pin{Repo: repo, Tag: tag, Digest: digest.FromString("v1"), Since: time.Unix(1, 0), By: "alice"}, Bytes: 7}
}

// Pins are told to those who may know of their repositories, and are changed one by one.
func TestPins(t *testing.T) {
	m, p := newMirror(t, "a/app"), new(pinned)
	m.hidden, m.opts.Pins = "a/secret", p
	for _, name := range []string{"app", "secret"} {
		p.all = append(p.all, pinnedAt(storage.RepoID{Namespace: "a", Name: name}, "v1"))
	}
	p.all = append(p.all, pinnedAt(storage.RepoID{Namespace: "removed", Name: "app"}, "v1"), pinnedAt(storage.RepoID{Namespace: "a", Name: "app"}, ""))
	expect := func(method, route, path string, status int, want string) {
		t.Helper()
		w := m.do(t, method, path)
		expectDescribed(t, route, w.Code, w.Body.Bytes())
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s: %d %s, want %d %s", method, path, w.Code, w.Body, status, want)
		}
	}
	dgst := digest.FromString("v1").String()
	one := `{"image":"a/app:v1","digest":"` + dgst + `","bytes":7,"since":"1970-01-01T00:00:01Z","by":"alice"}`
	two := strings.Replace(one, ":v1", "@"+dgst, 1)
	expect(http.MethodGet, "/pins", "pins", 200, `{"pins":[`+one+`,`+two+`],"bytes":14,"limit":1073741824}`)
	for method, verb := range map[string]string{http.MethodPut: "pin", http.MethodDelete: "unpin"} {
		p.asked, p.fail = nil, nil
		expect(method, "/pins/{image}", "pins/a%2Fapp:v1", 200, one)
		expect(method, "/pins/{image}", "pins/a%2Fapp@"+dgst, 200, two)
		expect(method, "/pins/{image}", "pins/a%2Fapp", 400, "@digest")
		expect(method, "/pins/{image}", "pins/"+url.PathEscape("a/<script>:v1"), 400, "%2F")
		expect(method, "/pins/{image}", "pins/a%2Fsecret:v1", 404, "no such repository")
		if got := strings.Join(p.asked, ", "); got != verb+` a/app "v1" "", `+verb+` a/app "" "`+dgst+`"` {
			t.Errorf("%s: %s", method, got)
		}
		p.fail = storage.ErrNotExist
		expect(method, "/pins/{image}", "pins/a%2Fapp:v1", 404, "the image is not")
		p.fail = errors.New("/secret")
		expect(method, "/pins/{image}", "pins/a%2Fapp:v1", 500, "The log")
	}
	expect(http.MethodGet, "/pins", "pins", 500, "The log")
	for want, err := range map[string]error{"too many pins": namespace.ErrTooManyPins, "1.0 GiB": namespace.ErrPinsFull} {
		p.fail = err
		expect(http.MethodPut, "/pins/{image}", "pins/a%2Fapp:v1", 409, want)
	}
	m.opts.Remover = &remover{fail: namespace.ErrPinned}
	expect(http.MethodDelete, "/images/{image}", "images/a%2Fapp", 409, "Unpin it first")
}
