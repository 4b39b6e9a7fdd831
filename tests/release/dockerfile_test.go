package release

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// builder is the program make of an image that stands in for that of Go, which no test can pull. It
// looks for what a build needs of the repository, and has the binary already.
const builder = `package main

import (
	"io"
	"os"
)

func main() {
	if len(os.Args) != 2 || os.Args[1] != "build" {
		panic(os.Args)
	}
	for _, file := range []string{"Makefile", "go.mod", "go.sum", "cmd/weir/main.go", ".git/HEAD"} {
		if _, err := os.Stat(file); err != nil {
			panic(err)
		}
	}
	from, err := os.Open("/weir")
	if err != nil {
		panic(err)
	}
	if err := os.Mkdir("dist", 0o755); err != nil {
		panic(err)
	}
	to, err := os.OpenFile("dist/weir", os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		panic(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		panic(err)
	}
}
`

// docker build . in a clone makes the image of what the first stage has compiled, with all that the
// image of make image has.
func TestDockerfile(t *testing.T) {
	_, ours, _ := strings.Cut(readFile(t, "../../Dockerfile"), "\nFROM scratch\n")
	_, other, _ := strings.Cut(readFile(t, "../../contrib/docker/Dockerfile"), "\nFROM scratch\n")
	if want := strings.Replace(other, "COPY dist/weir /weir", "COPY --from=build /src/dist/weir /weir", 1); ours != want || want == other {
		t.Errorf("the Dockerfile makes another image than contrib/docker/Dockerfile:\n%s", ours)
	}

	engine := harness.StartDocker(t, `{}`)
	base := t.TempDir()
	harness.WriteFile(t, filepath.Join(base, "main.go"), builder)
	compile := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s", "-o", filepath.Join(base, "make"), filepath.Join(base, "main.go"))
	compile.Env = append(compile.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	harness.Run(t, compile)
	clone := copyRepository(t)
	program := exec.CommandContext(t.Context(), "make", "build")
	program.Dir = clone
	program.Env = append(program.Environ(), "GOFLAGS=-buildvcs=true") // the version, or an error
	harness.Run(t, program)
	harness.Run(t, exec.CommandContext(t.Context(), "mv", filepath.Join(clone, "dist/weir"), base))
	harness.WriteFile(t, filepath.Join(base, "Dockerfile"), "FROM scratch\nCOPY make weir /\nENV PATH=/\n")
	harness.Run(t, engine.Command("build", "--tag", "builder", base))
	harness.Run(t, engine.Command("build", "--build-arg", "GO_IMAGE=builder", "--tag", "weir:test", clone))
	checkImage(t, engine, "weir:test")
}
