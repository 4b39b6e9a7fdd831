package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// Packages below app know no configuration: they return reasons, and app turns
// these into advice that names a key. So no string of theirs names one. Only
// keys of several words are looked for; "url" or "port" may mean anything.
func TestOnlyAppNamesConfigurationKeys(t *testing.T) {
	t.Parallel()
	keys := configurationKeys(t)
	if len(keys) < 20 {
		t.Fatalf("found %d keys in package config: has the form of its schema changed?", len(keys))
	}
	named := regexp.MustCompile(`\b(` + strings.Join(keys, "|") + `)\b`)
	except := []string{
		"config",       // the schema itself
		"clientconfig", // writes the files of other programs
	}
	for _, row := range rows[2:] { // below app and cmd/weir
		for _, dir := range row {
			if slices.Contains(except, dir) {
				continue
			}
			eachFile(t, dir, func(files *token.FileSet, file *ast.File) {
				for literal := range stringsOf(file) {
					text, err := strconv.Unquote(literal.Value)
					harness.Must(t, err)
					if key := named.FindString(text); key != "" {
						t.Errorf("%s: %q names the configuration key %s. Return a typed reason and name the key in app.", files.Position(literal.Pos()), text, key)
					}
				}
			})
		}
	}
}

// configurationKeys returns the keys of several words in the structs of package
// config.
func configurationKeys(t *testing.T) []string {
	t.Helper()
	keys := make(map[string]bool)
	eachFile(t, "config", func(_ *token.FileSet, file *ast.File) {
		for node := range ast.Preorder(file) {
			field, ok := node.(*ast.Field)
			if !ok || field.Tag == nil {
				continue
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			harness.Must(t, err)
			if key := reflect.StructTag(tag).Get("toml"); strings.Contains(key, "_") {
				keys[key] = true
			}
		}
	})
	return slices.Sorted(maps.Keys(keys))
}

// eachFile parses the product code of a package.
func eachFile(t *testing.T, dir string, do func(*token.FileSet, *ast.File)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	harness.Must(t, err)
	files := token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		harness.Must(t, err)
		do(files, file)
	}
}

// stringsOf yields the string literals of a file, but no import paths and tags
// of fields.
func stringsOf(file *ast.File) func(yield func(*ast.BasicLit) bool) {
	return func(yield func(*ast.BasicLit) bool) {
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.Field:
				node.Tag = nil
			case *ast.BasicLit:
				if node.Kind == token.STRING {
					yield(node)
				}
			}
			return true
		})
	}
}
