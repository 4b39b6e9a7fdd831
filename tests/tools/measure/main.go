// Measure prints figures about the product code of a checkout: packages and
// their sizes, the longest files and functions, interfaces, exported names, and
// two figures about comments. Run it from the top of the repository:
//
//	go run -C tests/tools ./measure [DIRECTORY]
//
// DIRECTORY is the checkout to measure, this one by default; a relative one
// starts at tests/tools. Product code is all Go code but _test.go files, the
// packages below tests and those that are made for tests.
//
// "Vague subjects" counts the words what, who, whoever, somebody and nobody in
// comments, where a noun of the domain usually serves the reader better. Text
// that a comment indents is an example and does not count. "Comments in bodies"
// counts lines with a comment inside function bodies, those at the end of a
// line of code included.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"text/tabwriter"
)

func main() {
	log.SetFlags(0)
	longest := flag.Int("longest", 10, "print `N` of the longest files and functions")
	flag.Parse()
	root := "../.."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	packages, err := load(root)
	if err != nil {
		log.Fatal(err)
	}
	report(packages, *longest)
}

// report prints all figures.
func report(packages []*pkg, longest int) {
	total := &pkg{}
	table("package\tfiles\tlines\ttest lines\tratio\texported\tvague per 1000 words\tcomments per 100 lines of bodies", func(row func(...any)) {
		for _, p := range packages {
			row(p.dir, len(p.files), p.lines, p.testLines, p.ratio(), p.exported, p.vagueRate(), p.bodyRate())
			total.add(p)
		}
		row(fmt.Sprintf("all %d packages", len(packages)), len(total.files), total.lines, total.testLines, total.ratio(), total.exported, total.vagueRate(), total.bodyRate())
	})
	fmt.Printf("Comments: %d words, of which %d \"what\" (%.1f per 1000), %d vague subjects in all (%.1f per 1000).\n",
		total.words, total.whats, per(total.whats, total.words, 1000), total.vague, total.vagueRate())
	fmt.Printf("Bodies: %d lines, of which %d with a comment (%.1f per 100).\n\n", total.bodyLines, total.bodyComments, total.bodyRate())
	var files, functions, interfaces []sized
	for _, p := range packages {
		files = append(files, p.files...)
		functions = append(functions, p.functions...)
		interfaces = append(interfaces, p.interfaces...)
	}
	list("longest files\tlines", files, longest)
	list("longest functions\tlines", functions, longest)
	fmt.Printf("Functions: %d, of which %d over 60 lines.\n\n", len(functions), countOver(functions, 60))
	list("interfaces\tmethods", interfaces, len(interfaces))
}

// list prints the largest of some things.
func list(header string, all []sized, longest int) {
	slices.SortStableFunc(all, func(a, b sized) int { return cmp.Compare(b.size, a.size) })
	table(header, func(row func(...any)) {
		for _, s := range all[:min(longest, len(all))] {
			row(s.name, s.size)
		}
	})
}

// table prints rows in aligned columns, and an empty line.
func table(header string, fill func(row func(...any))) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	fill(func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			if rate, fractional := cell.(float64); fractional {
				cell = fmt.Sprintf("%.2f", rate)
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	})
	fmt.Fprintln(w)
	w.Flush()
}

func countOver(all []sized, limit int) (n int) {
	for _, s := range all {
		if s.size > limit {
			n++
		}
	}
	return n
}
