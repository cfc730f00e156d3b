# Prints `outcome: TEST RESULT` for each test of CPython's results in JUnit's form.
import sys
import xml.etree.ElementTree

for case in xml.etree.ElementTree.parse(sys.argv[1]).iter("testcase"):
    children = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    print("outcome:", case.get("name"), children[0] if children else "ok")
