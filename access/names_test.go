package access

import "testing"

func TestNames(t *testing.T) {
	for _, test := range []struct {
		globs  []string
		shown  []string
		hidden []string
	}{
		{nil, []string{"app", "internal/app"}, nil},
		{[]string{"**", "!internal/**"}, []string{"app", "team/app", "internals/app", "team/internal/app"}, []string{"internal/app", "internal/a/b", "internal"}},
		{[]string{"!internal/**", "**"}, []string{"app"}, []string{"internal/app"}},
		{[]string{"!internal/**"}, []string{"app", "team/app"}, []string{"internal/app"}},
		{[]string{"library/*"}, []string{"library/nginx"}, []string{"library", "acme/app", "library/a/b"}},
		{[]string{"nginx", "{web,api}-*"}, []string{"nginx", "web-1", "api-x"}, []string{"nginx/x", "db-1", "xnginx", "web"}},
		{[]string{"team/**/public"}, []string{"team/public", "team/a/b/public"}, []string{"team/a", "public"}},
		{[]string{"*"}, []string{"app"}, []string{"team/app"}},
		{[]string{"**/app"}, []string{"app", "a/app", "a/b/app"}, []string{"app/x"}},
		{[]string{"!**"}, nil, []string{"app", "a/b"}},
		{[]string{"app-[0-9]"}, []string{"app-1"}, []string{"app-x"}},
	} {
		n, err := newNames("ghcr.io/acme", test.globs)
		if err != nil {
			t.Errorf("%q: %v", test.globs, err)
			continue
		}
		for _, name := range test.shown {
			if !n.show(name) {
				t.Errorf("%q hides %s", test.globs, name)
			}
		}
		for _, name := range test.hidden {
			if n.show(name) {
				t.Errorf("%q shows %s", test.globs, name)
			}
		}
	}
	for _, glob := range []string{
		"", "!", "a[", "!{a", "ghcr.io/acme/app", "!ghcr.io/acme/**", "ghcr.io/acme", "/app", "app/", "app:latest", "app@sha256:00", "App",
	} {
		if err := CheckNames("ghcr.io/acme", []string{"**", glob}); err == nil {
			t.Errorf("%q is accepted", glob)
		}
	}
}
