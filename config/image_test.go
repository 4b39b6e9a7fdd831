package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseImage(t *testing.T) {
	const dgst = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for text, want := range map[string]Image{
		"nginx":                        {"nginx", "latest"},
		"nginx:1.27":                   {"nginx", "1.27"},
		"docker.io/library/nginx:1.27": {"docker.io/library/nginx", "1.27"},
		"ghcr.io/org/app@" + dgst:      {"ghcr.io/org/app", dgst},
		"ghcr.io/org/app:1.2@" + dgst:  {"ghcr.io/org/app", dgst},
		"org/a_b/c.d/e--f:V1.0_x-2":    {"org/a_b/c.d/e--f", "V1.0_x-2"},
		"":                             {},
		"Nginx":                        {},
		"nginx:":                       {},
		"nginx:a/b":                    {},
		"org//app":                     {},
		"../etc/passwd":                {},
		"nginx@sha256:beef":            {},
		"nginx@" + dgst + "x":          {},
		"localhost:5000/nginx:1":       {"localhost:5000/nginx", "1"}, // as a block's key may be
		dgst:                           {"sha256", strings.TrimPrefix(dgst, "sha256:")},
	} {
		got, err := ParseImage(text)
		if got != want || (err == nil) != (want != Image{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]ocispec.Platform{
		"linux/amd64":   {OS: "linux", Architecture: "amd64"},
		"linux/arm/v7":  {OS: "linux", Architecture: "arm", Variant: "v7"},
		"linux":         {},
		"":              {},
		"linux/":        {},
		"linux/AMD64":   {},
		"linux/arm/v7/": {},
		"a/b/c/d":       {},
	} {
		got, err := ParsePlatform(text)
		if got.OS != want.OS || got.Architecture != want.Architecture || got.Variant != want.Variant || (err == nil) != (want.OS != "") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestWarm(t *testing.T) {
	c := mustLoad(t, "[repository.\"docker.io\"]\nupstream = [{url = \"https://registry-1.docker.io\"}]\n"+
		"[[repository.\"docker.io\".warm]]\nimages = [\"nginx\", \"docker.io/grafana/grafana:11\"]\n"+
		"[[repository.\"docker.io\".warm]]\nimages = [\"redis\"]\nevery = \"1d\"\nplatforms = [\"linux/arm64\"]\nreferrers = false\n")
	lists := c.Repositories[0].Warm
	if len(lists) != 2 || !slices.Equal(lists[0].Images, []string{"nginx", "docker.io/grafana/grafana:11"}) ||
		lists[0].Every.Std() != 6*time.Hour || !lists[0].Referrers || lists[0].Platforms != nil {
		t.Errorf("%+v", lists)
	}
	if lists[1].Every.Std() != 24*time.Hour || lists[1].Referrers || !slices.Equal(lists[1].Platforms, []string{"linux/arm64"}) {
		t.Errorf("%+v", lists[1])
	}
}

func TestWarmProblems(t *testing.T) {
	const warm = docker + "[[repository.\"docker.io\".warm]]\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no images", warm + "every = \"1h\"\n",
			`config.toml:4: repository."docker.io".warm[0].images: is missing; name images such as "org/app:1.2"`},
		{"no image", warm + "images = [\"nginx\", \"Nginx\"]\n",
			`config.toml:5: repository."docker.io".warm[0].images[1]: "Nginx" is not an image, such as "org/app:1.2": repository name must be lowercase`},
		{"too often", warm + "images = [\"nginx\"]\nevery = \"10s\"\n",
			`config.toml:6: repository."docker.io".warm[0].every: must be at least 1m`},
		{"no platform", warm + "images = [\"nginx\"]\nplatforms = [\"amd64\"]\n",
			`config.toml:6: repository."docker.io".warm[0].platforms[0]: "amd64" is not a platform; write one like "linux/amd64" or "linux/arm/v7"`},
		{"misspelt", warm + "image = [\"nginx\"]\n",
			`config.toml:5: repository."docker.io".warm[0].image: unknown key; did you mean "images"?`},
		{"of another registry", warm + "images = [\"ghcr.io/org/app\"]\n",
			`config.toml:5: repository."docker.io".warm[0].images[0]: ghcr.io/org/app is not below docker.io; move it to the block of ghcr.io, or put docker.io/ before it if that is how the upstream calls it`},
		{"of another block", warm + "images = [\"acme/app\"]\n[[repository.\"docker.io/acme\".upstream]]\nurl = \"https://registry-1.docker.io\"\n",
			`config.toml:5: repository."docker.io".warm[0].images[0]: docker.io/acme/app is served by repository."docker.io/acme" (config.toml:6); move it there`},
		{"one bracket", docker + "[repository.\"docker.io\".warm]\nimages = [\"nginx\"]\n",
			`config.toml:4: repository."docker.io".warm: must be a list of tables: write [[repository."docker.io".warm]] with two brackets`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := problemsOf(t, tt.text); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
