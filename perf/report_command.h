// `tutti report A.json [B.json]`: one result file as a table, or two side by side.
#pragma once

int report_command(int argc, char** argv);
