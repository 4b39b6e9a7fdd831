package config

import (
	"strings"
	"testing"
)

func TestNestedQuantifiers(t *testing.T) {
	for pattern, want := range map[string]bool{
		`^(a+)+$`: true, `(a*)*`: true, `(?:a+)*`: true, `((a+)b)+`: true, `(a{2,})+`: true, `([a-z]+)*-`: true, `(a+){3,}`: true, `(x(?=a+))*`: true, `(.*a)+?`: true, `(([^-]+))+`: true, `(\w+\.?)+`: true,
		`^latest$`: false, `a+b+`: false, `(a+)`: false, `(a+)?`: false, `(a|b)+`: false, `(a{2,3})+`: false, `(a\+)+`: false, `([+*])+`: false, `([]+])+`: false, `(a{2})+`: false, `^nightly.*$`: false, `(?<!stable)-x$`: false,
		``: false, `(`: false, `)`: false, `[`: false, `\`: false, `a{`: false, `a{,`: false, `+`: false, `(a+`: false, `a+)+`: false,
	} {
		if got := nestsQuantifiers(pattern); got != want {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
}

func TestNestedQuantifiersAreWarnedAbout(t *testing.T) {
	c := new(Config)
	c.Global.ImmutableTagsExclusions = []string{"^latest$", "^(a+)+$"}
	c.Namespaces = []Namespace{{Key: "ghcr.io", ImmutableTagsExclusions: []string{"(b*)*"}}}
	warnings := strings.Join(c.patternWarnings(), "\n")
	for _, key := range []string{`global.immutable_tags_exclusions[1]`, `repository."ghcr.io".immutable_tags_exclusions[0]`} {
		if !strings.Contains(warnings, key) {
			t.Errorf("%q names no %s", warnings, key)
		}
	}
	if strings.Contains(warnings, "exclusions[0] (") && !strings.Contains(warnings, `"ghcr.io".immutable_tags_exclusions[0]`) || strings.Contains(warnings, "global.immutable_tags_exclusions[0]") {
		t.Errorf("a sane pattern is warned about: %s", warnings)
	}
}
