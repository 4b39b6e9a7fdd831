package config

import (
	"slices"
	"testing"
	"time"
)

func TestWarm(t *testing.T) {
	c := mustLoad(t, "[repository.\"docker.io\"]\nupstream = [{url = \"https://registry-1.docker.io\"}]\n"+
		"[[repository.\"docker.io\".warm]]\nimages = [\"nginx\", \"docker.io/grafana/grafana:11\"]\n"+
		"[[repository.\"docker.io\".warm]]\nimages = [\"redis\"]\nevery = \"1d\"\nplatforms = [\"linux/arm64\"]\nreferrers = false\n")
	if d := diff(c, mustLoad(t, effective(t, c))); d != "" {
		t.Errorf("comes back different: %s", d)
	}
	lists := c.Namespaces[0].Warm
	if len(lists) != 2 || !slices.Equal(written(lists[0].Images), []string{"nginx", "docker.io/grafana/grafana:11"}) ||
		lists[0].Every.Std() != 6*time.Hour || !lists[0].Referrers || lists[0].Platforms != nil {
		t.Errorf("%+v", lists)
	}
	if lists[1].Every.Std() != 24*time.Hour || lists[1].Referrers || len(lists[1].Platforms) != 1 || lists[1].Platforms[0].Architecture != "arm64" {
		t.Errorf("%+v", lists[1])
	}
}

func written(images []Image) (texts []string) {
	for _, image := range images {
		texts = append(texts, image.Written)
	}
	return texts
}

func TestWarmProblems(t *testing.T) {
	const warm = docker + "[[repository.\"docker.io\".warm]]\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no images", warm + "every = \"1h\"\n",
			`config.toml:4: repository."docker.io".warm[0].images: is missing; name images such as "org/app:1.2"`},
		{"no image", warm + "images = [\"nginx\", \"Nginx\"]\n",
			`config.toml:5: repository."docker.io".warm[0].images[1]: "Nginx" is not an image, such as "org/app:1.2": its name may have lower-case letters, digits, and . _ - between them`},
		{"no image before one of another registry", warm + "images = [\"Nginx\", \"ghcr.io/org/app\"]\n",
			`config.toml:5: repository."docker.io".warm[0].images[0]: "Nginx" is not an image, such as "org/app:1.2": its name may have lower-case letters, digits, and . _ - between them` + "\n" +
				`config.toml:5: repository."docker.io".warm[0].images[1]: ghcr.io/org/app is not below docker.io; move it to the block of ghcr.io, or put docker.io/ before it if that is its name at the upstream`},
		{"too often", warm + "images = [\"nginx\"]\nevery = \"10s\"\n",
			`config.toml:6: repository."docker.io".warm[0].every: must be at least 1m`},
		{"no platform", warm + "images = [\"nginx\"]\nplatforms = [\"amd64\"]\n",
			`config.toml:6: repository."docker.io".warm[0].platforms[0]: "amd64" is not a platform; write one like "linux/amd64" or "linux/arm/v7"`},
		{"misspelt", warm + "image = [\"nginx\"]\n",
			`config.toml:5: repository."docker.io".warm[0].image: unknown key; did you mean "images"?`},
		{"of another registry", warm + "images = [\"ghcr.io/org/app\"]\n",
			`config.toml:5: repository."docker.io".warm[0].images[0]: ghcr.io/org/app is not below docker.io; move it to the block of ghcr.io, or put docker.io/ before it if that is its name at the upstream`},
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
