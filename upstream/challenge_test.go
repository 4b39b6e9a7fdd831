package upstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenges(t *testing.T) {
	bearer := challenge{scheme: "bearer", params: map[string]string{"realm": "https://auth.example/token", "service": "registry.example"}}
	basic := challenge{scheme: "basic", params: map[string]string{"realm": "r"}}
	tests := map[string]struct {
		headers []string
		want    []challenge
	}{
		"none":                     {nil, nil},
		"empty":                    {[]string{""}, nil},
		"bearer":                   {[]string{`Bearer realm="https://auth.example/token",service="registry.example"`}, []challenge{bearer}},
		"scheme and names by case": {[]string{`BEARER Realm="https://auth.example/token", SERVICE="registry.example"`}, []challenge{bearer}},
		"white space everywhere":   {[]string{"\tBearer  realm =\t\"https://auth.example/token\" ,  service= registry.example "}, []challenge{bearer}},
		"two lines":                {[]string{`Basic realm="r"`, `Bearer realm="https://auth.example/token",service="registry.example"`}, []challenge{basic, bearer}},
		"two in one line":          {[]string{`Basic realm="r", Bearer realm="https://auth.example/token",service="registry.example"`}, []challenge{basic, bearer}},
		"bare scheme before":       {[]string{`Negotiate, Basic realm="r"`}, []challenge{{scheme: "negotiate"}, basic}},
		"token68 before":           {[]string{`Negotiate YWJj+/==, Basic realm=r`}, []challenge{{scheme: "negotiate"}, basic}},
		"empty list elements":      {[]string{`, ,Basic realm="r",,`}, []challenge{basic}},
		"comma in quotes":          {[]string{`Bearer realm="x",scope="repository:a:pull,push"`}, []challenge{{scheme: "bearer", params: map[string]string{"realm": "x", "scope": "repository:a:pull,push"}}}},
		"escapes":                  {[]string{`Basic realm="a \"b\" \\ c"`}, []challenge{{scheme: "basic", params: map[string]string{"realm": `a "b" \ c`}}}},
		"a scheme in quotes":       {[]string{`Basic realm="Bearer realm=y"`}, []challenge{{scheme: "basic", params: map[string]string{"realm": "Bearer realm=y"}}}},
		"unquoted URL":             {[]string{`Bearer realm=https://auth.example/token,service=registry.example`}, []challenge{bearer}},
		"unterminated quote":       {[]string{`Basic realm="r`}, []challenge{basic}},
		"first of a name wins":     {[]string{`Basic realm="r", realm="evil"`}, []challenge{basic}},
		"parameter without scheme": {[]string{`realm="x", Basic realm="r"`}, []challenge{basic}},
		"unused parameters":        {[]string{`Basic realm="r",charset="UTF-8",error="` + strings.Repeat("x", 60<<10) + `"`}, []challenge{basic}},
		"4 KiB are too long":       {[]string{`Bearer realm="` + strings.Repeat("x", 4<<10) + `", Basic realm="r"`}, []challenge{basic}},
		"together too long":        {[]string{`Bearer realm="r",scope="` + strings.Repeat("x", 2<<10) + `",service="` + strings.Repeat("x", 2<<10) + `", Basic realm="r"`}, []challenge{basic}},
		"many":                     {[]string{strings.Repeat("Basic x=y,", 1000), `Basic realm="r"`}, slices.Repeat([]challenge{{scheme: "basic"}}, 16)},
		"garbage is skipped":       {[]string{`@"a, Basic x=y"@, Basic realm="r"`}, []challenge{basic}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := parseChallenges(test.headers)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
				t.Errorf("parseChallenges(%q) (-want +got):\n%s", test.headers, diff)
			}
		})
	}
}

// FuzzParseChallenges holds that whatever is parsed is well-formed, and that
// it means the same when it is written out and parsed again.
func FuzzParseChallenges(f *testing.F) {
	for _, seed := range []string{
		"", ",", "Basic", `Basic realm="r"`, `Negotiate YWJj==, Basic realm=r`,
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull"`,
		`Basic realm="a \"b\" \\ c", BEARER realm = x`, `Basic realm="`, `Basic realm=\`, "a=b=c", "x y z", "\"\\", "Digest a=1,b=\"2\",c",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first := parseChallenges([]string{header})
		var written []string
		for _, c := range first {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || strings.ContainsFunc(c.scheme, func(r rune) bool { return r > 126 || !isTokenChar(byte(r)) }) {
				t.Fatalf("scheme %q of %q is no lower-case token", c.scheme, header)
			}
			written = append(written, writeChallenge(c))
		}
		again := parseChallenges([]string{strings.Join(written, ", ")})
		if diff := cmp.Diff(first, again, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Fatalf("%q written as %q differs (-first +again):\n%s", header, written, diff)
		}
	})
}

func writeChallenge(c challenge) string {
	var params []string
	for name, value := range c.params {
		params = append(params, fmt.Sprintf(`%s="%s"`, name, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)))
	}
	slices.Sort(params)
	return c.scheme + " " + strings.Join(params, ", ")
}
